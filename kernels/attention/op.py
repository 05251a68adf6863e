"""Fused attention: softmax(scale * q k^T + mask) v, and each row's log-sum-exp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Ratio

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
MAX_HEAD_DIM = 256


def reference(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor]:
    """Attention in float32 (float64 for float64 inputs), rounded once at the end.

    q    [B, M, H, D]       f16 | bf16 | f32
    k    [B, N, G, D]       dtype of q; H divisible by G
    v    [B, N, G, Dv]      dtype of q
    ->   out [B, M, H, Dv]  dtype of q; 0 for a query without keys
         lse [B, H, M]      f32, natural logarithm, -inf without keys; [0] unless asked for
    """
    B, M, H, D = q.shape
    N, G = k.shape[1], k.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    qh = q.to(wide).reshape(B, M, G, H // G, D)
    scores = torch.einsum("bmgrd,bngd->bgrmn", qh, k.to(wide)) * scale
    if causal:
        visible = torch.ones(M, N, dtype=torch.bool, device=q.device).tril(N - M)
        scores = scores.masked_fill(~visible, float("-inf"))
    # A query without keys has no finite score; its sums are kept finite for the sake of gradients.
    top = scores.new_zeros(B, G, H // G, M)
    if N:
        top = scores.detach().amax(-1).nan_to_num(neginf=0.0)
    weights = (scores - top.unsqueeze(-1)).exp()
    total = weights.sum(-1)
    seen = total > 0
    total = torch.where(seen, total, 1.0)
    out = torch.einsum("bgrmn,bngd->bmgrd", weights / total.unsqueeze(-1), v.to(wide))
    out = out.reshape(B, M, H, v.shape[-1]).to(q.dtype)
    if not return_lse:
        return out, q.new_empty(0, dtype=wide)
    lse = torch.where(seen, top + total.log(), float("-inf")).reshape(B, H, M)
    return out, lse


def fake(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor]:
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != 4:
            raise ValueError(
                f"attention: {name} must be [batch, seq, heads, dim], got {describe(t)}"
            )
        if t.dtype not in DTYPES.values():
            raise ValueError(f"attention: {name} must be f16, bf16 or f32, got {describe(t)}")
        if t.dtype != q.dtype:
            raise ValueError(f"attention: {name} must have the dtype of q, got {describe(t)}")
    B, M, H, D = q.shape
    N, G = k.shape[1], k.shape[2]
    if k.shape[0] != B or v.shape[0] != B:
        raise ValueError(
            f"attention: k and v must have the batch of q, {B}, got {describe([k, v])}"
        )
    if v.shape[1] != N or v.shape[2] != G:
        raise ValueError(
            f"attention: v must have the sequence and heads of k, {[N, G]}, got {describe(v)}"
        )
    if k.shape[3] != D:
        raise ValueError(f"attention: k must have the head dim of q, {D}, got {describe(k)}")
    for name, dim in (("q", D), ("v", v.shape[3])):
        if not 1 <= dim <= MAX_HEAD_DIM:
            raise ValueError(
                f"attention: the head dim of {name} must be 1 to {MAX_HEAD_DIM}, got {dim}"
            )
    if G == 0 or H % G != 0:
        raise ValueError(f"attention: the heads of q, {H}, must be a multiple of those of k, {G}")
    if not -1e30 < scale < 1e30:
        raise ValueError(f"attention: scale must be finite, got {scale}")
    lse = q.new_empty((B, H, M) if return_lse else (0,), dtype=torch.float32)
    return q.new_empty((B, M, H, v.shape[3])), lse


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal; large and tiny magnitudes by row; one-hot keys, of which a dropped one shows.
    `layout`: contiguous; q, k and v as views of one packed tensor; transposed heads; sparse."""
    dtype, Dv = DTYPES[case.one_of("dtype", *DTYPES)], case.get("Dv", case.D)
    B, M, N, H, G, D = case.B, case.M, case.N, case.H, case.G, case.D
    fill, place = case.one_of("fill", "normal", "magnitudes", "onehot"), generator.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=place)

    q, k, v = normal(B, M, H, D), normal(B, N, G, D), normal(B, N, G, Dv)
    if fill == "magnitudes":
        q *= 2.0 ** whole(-12, 4, B, M, H, 1)
        # Of one sign: where large values cancel, any kernel that rounds its weights to bf16 is
        # further off than the end's rounding, by which the tolerance goes.
        v = v.abs() * 2.0 ** whole(-12, 12, B, N, 1, 1)
    if fill == "onehot":
        # Query i points at one key with a weight near 1, and every key's value is its own.
        code = normal(N, D).sign() if N else normal(0, D)
        k = code.view(1, N, 1, D).expand(B, N, G, D).clone()
        target = whole(0, N, M)
        if case.get("causal", False):
            last = (torch.arange(M, device=place) + N - M).clamp(0, N - 1)
            target = torch.minimum(target, last)
        q = (8.0 * code[target]).view(1, M, 1, D).expand(B, M, H, D).clone()
        v = v + torch.arange(N, device=place).view(1, N, 1, 1) / 16
    q, k, v = _lay_out(case, [t.to(dtype) for t in (q, k, v)])
    return {
        "q": q, "k": k, "v": v,
        "causal": case.get("causal", False),
        "scale": case.get("scale", D**-0.5),
        "return_lse": case.get("lse", False),
    }  # fmt: skip


def _lay_out(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    layout = case.one_of("layout", "contiguous", "packed", "heads_first", "sparse", "sparse_dim")
    if (
        layout == "packed"
    ):  # one projection's output, heads of q, k and v in a row, at an odd offset
        q, k, v = tensors
        flat = torch.cat([q, k, v], dim=2)
        buffer = flat.new_empty(flat.numel() + 3)[3:].view(flat.shape)
        return list(buffer.copy_(flat).split([q.shape[2], k.shape[2], v.shape[2]], dim=2))
    if layout == "heads_first":  # [B, heads, seq, D] memory, with the last dim strided too
        wide = [t.transpose(1, 2).repeat_interleave(2, dim=3) for t in tensors]
        return [t[..., ::2].transpose(1, 2) for t in wide]
    if layout == "sparse":  # key rows so far apart that their offsets pass 2^31 elements
        q, k, v = tensors
        return [q, *(_sparse(t) for t in (k, v))]
    if layout == "sparse_dim":  # the same for the last dim of q and v
        q, k, v = tensors
        return [_sparse_dim(q), k, _sparse_dim(v)]
    return tensors


def _sparse_dim(t: Tensor) -> Tensor:
    step = 2**31 // (t.shape[-1] - 1) + 64
    memory = t.new_empty(step * t.shape[-1])
    return memory.as_strided(t.shape, (0, t.shape[2], 1, step)).copy_(t)


def _sparse(t: Tensor) -> Tensor:
    step = 2**31 // (t.shape[1] - 1) + 64
    memory = t.new_empty(step * t.shape[1])
    return memory.as_strided(t.shape, (0, step, t.shape[3], 1)).copy_(t)


def cost(case: Case) -> Cost:
    B, M, N, H, G, D = case.B, case.M, case.N, case.H, case.G, case.D
    Dv, dtype = case.get("Dv", D), DTYPES[case.one_of("dtype", *DTYPES)]
    pairs = visible_pairs(M, N) if case.get("causal", False) else M * N
    elements = B * (M * H * (D + Dv) + N * G * (D + Dv))
    lse = 4 * B * H * M if case.get("lse", False) else 0
    return Cost(
        2 * B * H * pairs * (D + Dv),
        elements * dtype.itemsize + lse,
        "f32" if dtype == torch.float32 else "f16",
    )


def visible_pairs(M: int, N: int) -> int:
    """Query-key pairs under a causal mask that is aligned bottom-right."""
    rows = min(M, N)  # the last `rows` queries see keys; the first of them N - rows + 1
    return rows * (N - rows) + rows * (rows + 1) // 2


def _sdpa_rejects(p: Problem) -> str | None:
    M, N = p.q.shape[1], p.k.shape[1]
    if p.return_lse:
        return "PyTorch's SDPA returns no log-sum-exp"
    if p.causal and M > N:
        return "PyTorch's SDPA gives NaN for queries without keys (causal with M > N)"
    if N == 0:
        return "PyTorch's SDPA has no empty key sequence"
    if p.scale <= 0:
        # Seen on a CPU: is_causal with scale -0.3 lets future keys in, with 0 it gives NaN.
        return "PyTorch's SDPA masks before it scales, so the scale must be positive"
    if 0 in p.q.shape:
        return "the problem is empty"
    return None


_I = {"interpret"}
_TINY: dict[str, Any] = dict(B=1, M=16, N=16, H=2, G=1, D=16)
_LLAMA: dict[str, Any] = dict(B=1, H=32, G=8, D=128)  # one layer of Llama-3 8B

CASES = (
    Case("tiny", lse=True, **_TINY, dtype="f32", tags=_I),
    Case("tiny-f16", **_TINY, dtype="f16", causal=True, tags=_I),
    Case("tiny-bf16", **_TINY, causal=True, tags=_I),
    Case("plain", B=2, M=33, N=65, H=4, G=2, D=64, causal=True, tags=_I),
    Case("ragged", lse=True, B=2, M=67, N=131, H=6, G=2, D=72, dtype="f16", causal=True, tags=_I),
    Case("ragged-f32", lse=True, B=1, M=130, N=77, H=3, G=3, D=40, dtype="f32", tags=_I),
    Case("dims", B=1, M=37, N=45, H=2, G=1, D=96, Dv=33, dtype="f16", tags=_I),
    Case("dim-1", lse=True, B=1, M=5, N=9, H=1, G=1, D=1, dtype="f32", tags=_I),
    Case("dim-256", B=1, M=40, N=70, H=2, G=2, D=256, causal=True, tags=_I),
    Case("no-keys", lse=True, B=1, M=40, N=17, H=2, G=1, D=32, causal=True, tags=_I),
    Case("keys-empty", lse=True, B=1, M=9, N=0, H=2, G=1, D=32, tags=_I),
    Case("batch-empty", B=0, M=16, N=16, H=2, G=2, D=64, tags=_I),
    Case("queries-empty", lse=True, B=2, M=0, N=16, H=2, G=2, D=64, tags=_I),
    Case("decode", lse=True, B=3, M=1, N=190, H=7, G=1, D=64, causal=True, tags=_I),
    Case("packed", B=2, M=50, N=50, H=4, G=2, D=64, causal=True, layout="packed",
         tags=_I),
    Case("strided", lse=True, B=2, M=50, N=70, H=4, G=2, D=32, layout="heads_first", tags=_I),
    Case("one-key-more", B=1, M=128, N=129, H=1, G=1, D=16, causal=True, tags=_I),
    Case("sparse-long", B=1, M=70, N=140, H=1, G=1, D=16, dtype="f16", layout="sparse", tags=_I),
    Case("sparse-dim", B=1, M=3, N=2, H=1, G=1, D=40, dtype="f16", layout="sparse_dim", tags=_I),
    Case("sparse", B=1, M=70, N=9, H=1, G=1, D=16, dtype="f16", layout="sparse", tags=_I),
    Case("onehot", lse=True, B=1, M=150, N=300, H=2, G=1, D=64, fill="onehot", tags=_I),
    Case("onehot-causal", B=1, M=150, N=170, H=2, G=1, D=64, fill="onehot", causal=True,
         dtype="f16", tags=_I),
    Case("magnitudes", lse=True, B=1, M=64, N=100, H=2, G=2, D=64, fill="magnitudes", tags=_I),
    Case("scale-negative", lse=True, B=1, M=20, N=30, H=1, G=1, D=32, scale=-0.7, tags=_I),
    Case("scale-negative-causal", B=1, M=24, N=24, H=2, G=1, D=32, scale=-0.3, causal=True,
         tags=_I),
    Case("scale-zero", B=1, M=24, N=24, H=2, G=1, D=32, scale=0.0, causal=True, dtype="f32",
         tags=_I),
    Case("llama3-8b-prefill", M=4096, N=4096, causal=True, **_LLAMA,
         cpu=dict(M=256, N=256), tags={"bench", "accept", "aot"}),
    Case("llama3-8b-full", M=4096, N=4096, **_LLAMA,
         cpu=dict(M=256, N=256), tags={"bench", "aot"}),
    Case("llama3-8b-decode", M=1, N=8192, causal=True, **_LLAMA,
         cpu=dict(N=2048), tags={"bench", "accept", "aot"}),
    Case("llama3-8b-chunk", M=512, N=8192, causal=True, lse=True, **_LLAMA,
         cpu=dict(M=64, N=512), tags={"bench", "accept", "aot"}),
    Case("aot-f16-256", lse=True, B=1, M=1024, N=1024, H=8, G=8, D=256, dtype="f16", causal=True,
         cpu=dict(M=64, N=64), tags={"aot"}),
    Case("aot-72", lse=True, B=1, M=1001, N=1001, H=8, G=2, D=72, causal=True,
         cpu=dict(M=65, N=65), tags={"aot"}),
    Case("aot-72-decode", B=1, M=1, N=1001, H=8, G=2, D=72, causal=True,
         cpu=dict(N=65), tags={"aot"}),
    Case("aot-200", lse=True, B=1, M=1001, N=1001, H=8, G=8, D=200, dtype="f16", causal=True,
         cpu=dict(M=65, N=65), tags={"aot"}),
    Case("aot-72-f32", lse=True, B=1, M=1001, N=1001, H=8, G=2, D=72, dtype="f32", causal=True,
         cpu=dict(M=65, N=65), tags={"aot"}),
    Case("aot-f32", lse=True, B=1, M=1024, N=1024, H=8, G=8, D=64, dtype="f32", causal=True,
         cpu=dict(M=64, N=64), tags={"aot"}),
)  # fmt: skip


def _with(**change: Any) -> Any:
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


ERRORS = (
    Invalid("q has three dims", _with(q=lambda a: a["q"][0]), "q must be"),
    Invalid("q is float64", _with(q=lambda a: a["q"].double()), "q must be f16, bf16 or f32"),
    Invalid("k of another dtype", _with(k=lambda a: a["k"].half()), "k must have the dtype of q"),
    Invalid("v is integer", _with(v=lambda a: a["v"].int()), "v must be"),
    Invalid("batches differ", _with(k=lambda a: a["k"].repeat(2, 1, 1, 1)), "batch of q"),
    Invalid("k and v differ in length", _with(v=lambda a: a["v"][:, :-1]), "v must have"),
    Invalid("head dims differ", _with(k=lambda a: a["k"][..., :8]), "k must have the head dim"),
    Invalid("head dim of 257", _with(
        q=lambda a: a["q"].new_zeros(1, 4, 2, 257), k=lambda a: a["q"].new_zeros(1, 16, 1, 257)
    ), "1 to 256, got 257"),
    Invalid("head dim of 0", _with(v=lambda a: a["v"][..., :0]), "1 to 256, got 0"),
    Invalid("heads do not divide", _with(
        k=lambda a: a["k"].repeat(1, 1, 3, 1), v=lambda a: a["v"].repeat(1, 1, 3, 1)
    ), "multiple of those of k"),
    Invalid("scale is nan", _with(scale=lambda a: float("nan")), "scale must be finite"),
)  # fmt: skip

attention = Op(
    name="attention",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Ratio(), Ratio()),
    errors=ERRORS,
    outputs=("out", "lse"),
    backward="reference",
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_fwd:launch",
            sources=("kernels/attention/config.py",),
        ),
        Provider(
            "sdpa",
            "aimills_kernels.kernels.attention.sdpa:launch",
            devices=("cpu", "cuda"),
            rejects=_sdpa_rejects,
            vendor=True,
        ),
    ),
)
