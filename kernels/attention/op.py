"""Fused attention: softmax(scale * q k^T + mask) v, and each row's log-sum-exp."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.attention import mask
from aimills_kernels.kernels.attention.checks import (
    DTYPES,
    check_extras,
    check_qkv,
    check_scalars,
)
from aimills_kernels.kernels.attention.config import (
    FORWARD_SOURCES,
    INVARIANT_SOURCES,
    Shape,
    candidates,
    queries_of,
)
from aimills_kernels.kernels.attention.gradients import fused_backward

AT_ONCE = 1 << 28  # scores, over all heads


def reference(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    seqused_k: Tensor | None, causal: bool, scale: float, window_left: int, window_right: int,
    softcap: float, return_lse: bool, deterministic: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention in float32 (float64 for float64 inputs), rounded once at the end.

    q             [B, M, H, D]     f16 | bf16 | f32
    k             [B, N, G, D]     dtype of q; H divisible by G
    v             [B, N, G, Dv]    dtype of q
    sinks         [H]              f32 or dtype of q: a further logit in each softmax, no value
    alibi_slopes  [H] or [B, H]    f32
    seqused_k     [B]              i32: keys of each sequence in use, n; the others are not read
    ->   out [B, M, H, Dv]  dtype of q; 0 for a query without keys
         lse [B, H, M]      f32, natural logarithm of the softmax's denominator, sink included;
                            -inf where that is 0; [0] unless asked for
    `deterministic` is for the gradients; a forward always sums in one order. With `batch_invariant`
    the bits of a query's result depend on its own sequence alone.

    score = cap(scale q k^T) - slope |p - j|, where cap(x) = softcap tanh(x / softcap), query i
    stands at p = i + n - M and j is the key. It sees the keys from p - window_left to
    p + window_right; -1 is no limit, causal a right limit of 0.
    """
    who = pairs_of(q, k, seqused_k, causal, window_left, window_right)
    outs, lses = zip(*(
        attend(*heads.of(q, k, v, sinks, alibi_slopes), *who, scale, softcap, return_lse)
        for heads in parts(q, k)
    ), strict=True)  # fmt: skip
    if len(outs) == 1:
        return outs[0], lses[0]
    return torch.cat(outs, 2), torch.cat(lses, 1) if return_lse else lses[0]


class Heads(NamedTuple):
    """Some query heads, and the key heads that they read."""

    query: slice
    key: slice

    def of(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Their part of the arguments; the slopes [1 or B, H, 1] or [H, 1]."""
        return (
            q[:, :, self.query], k[:, :, self.key], v[:, :, self.key],
            None if sinks is None else sinks[self.query],
            None if alibi_slopes is None else alibi_slopes[..., self.query, None],
        )  # fmt: skip


def parts(q: Tensor, k: Tensor) -> list[Heads]:
    """What the references work out at a time: all heads, or one key head where there are many
    scores, so that memory for the oracle of long sequences is enough."""
    B, M, H = q.shape[:3]
    N, G = k.shape[1:3]
    if B * H * M * N <= AT_ONCE:
        return [Heads(slice(None), slice(None))]
    R = H // G
    return [Heads(slice(g * R, g * R + R), slice(g, g + 1)) for g in range(G)]


def pairs_of(
    q: Tensor, k: Tensor, seqused_k: Tensor | None, causal: bool, window_left: int,
    window_right: int,
) -> tuple[Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """`used`, `distance` and `seen` as `attend` takes them."""
    M, N = q.shape[1], k.shape[1]
    left, right = mask.limits(causal, window_left, window_right, N)
    distance = mask.distances(M, N, seqused_k, q.device)
    used = None
    if seqused_k is not None:
        used = torch.arange(N, device=q.device) < seqused_k.view(-1, 1)
    return used, distance, mask.visible(distance, used, left, right)


def attend(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, slopes: Tensor | None,
    used: Tensor | None, distance: Tensor, seen: Tensor | None, scale: float, softcap: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The formula, given who sees whom.

    slopes    [1 or B, H, 1 or M]   or [H, 1]; None for none
    used      [B, N] bool           keys that may be read; None for all
    distance  [1 or B, M, N]        p - j
    seen      [1 or B, M, N] bool   None for every pair
    """
    B, M, H = q.shape[:3]
    N, G = k.shape[1], k.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    _, _, values, _, scores = scores_of(q, k, v, slopes, used, distance, seen, scale, softcap)
    # A query without keys has no finite score; its sums are kept finite for the sake of gradients.
    top = scores.new_full((B, G, H // G, M), float("-inf"))
    if N:
        top = scores.detach().amax(-1)
    sink = None
    if sinks is not None:
        sink = sinks.to(wide).view(G, H // G, 1)
        top = torch.maximum(top, sink.detach())
    top = top.nan_to_num(nan=float("nan"), neginf=0.0)
    weights = (scores - top.unsqueeze(-1)).exp()
    total = weights.sum(-1)
    if sink is not None:
        total = total + (sink - top).exp()
    some = total > 0
    total = torch.where(some, total, 1.0)
    out = torch.einsum("bgrmn,bngd->bmgrd", weights / total.unsqueeze(-1), values)
    out = out.reshape(B, M, H, v.shape[-1]).to(q.dtype)
    if not return_lse:
        return out, q.new_empty(0, dtype=wide)
    lse = torch.where(some, top + total.log(), float("-inf")).reshape(B, H, M)
    return out, lse


def scores_of(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, used: Tensor | None, distance: Tensor,
    seen: Tensor | None, scale: float, softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operands in at least float32, what the soft cap makes of the products (without one, the
    products), and the scores: q [B, M, G, R, D], k, v, and twice [B, G, R, M, N]."""
    B, M, H, D = q.shape
    G = k.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    qh, keys, values = q.to(wide).reshape(B, M, G, H // G, D), k.to(wide), v.to(wide)
    if used is not None:  # what is not in use may be NaN, and 0 times that is NaN
        unused = ~used[:, :, None, None]
        keys, values = keys.masked_fill(unused, 0.0), values.masked_fill(unused, 0.0)
    scores = torch.einsum("bmgrd,bngd->bgrmn", qh, keys) * scale
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    capped = scores
    if slopes is not None:
        each = slopes.to(wide).unflatten(-2, (G, H // G)).unsqueeze(-1)
        scores = scores - each * distance[:, None, None].abs()
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    return qh, keys, values, capped, scores


def fake(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    seqused_k: Tensor | None, causal: bool, scale: float, window_left: int, window_right: int,
    softcap: float, return_lse: bool, deterministic: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check("attention", q, k, v, sinks, alibi_slopes, seqused_k)
    check_scalars("attention", scale, window_left, window_right, softcap)
    B, M, H, _ = q.shape
    lse = q.new_empty((B, H, M) if return_lse else (0,), dtype=torch.float32)
    return q.new_empty((B, M, H, v.shape[3])), lse


def check(
    op: str, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    seqused_k: Tensor | None,
) -> None:  # fmt: skip
    check_qkv(op, q, k, v, "[batch, seq, heads, dim]")
    B, N, G = q.shape[0], k.shape[1], k.shape[2]
    if k.shape[0] != B or v.shape[0] != B:
        raise ValueError(f"{op}: k and v must have the batch of q, {B}, got {describe([k, v])}")
    if v.shape[1] != N or v.shape[2] != G:
        raise ValueError(
            f"{op}: v must have the sequence and heads of k, {[N, G]}, got {describe(v)}"
        )
    check_extras(op, q, B, sinks, alibi_slopes, seqused_k)


def values(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    seqused_k: Tensor | None, *scalars: Any,
) -> None:  # fmt: skip
    check_values("attention", k, seqused_k)


def check_values(op: str, k: Tensor, seqused_k: Tensor | None) -> None:
    if seqused_k is None or seqused_k.numel() == 0:
        return
    low, high = (int(x) for x in seqused_k.aminmax())
    if low < 0 or high > k.shape[1]:
        raise ValueError(
            f"{op}: seqused_k must be 0 to {k.shape[1]}, the length of k, got {low} to {high}"
        )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal; large and tiny magnitudes by row; one-hot keys, of which a dropped one shows.
    `layout`: contiguous; q, k and v as views of one packed tensor; transposed heads; sparse."""
    dtype, place = DTYPES[case.one_of("dtype", *DTYPES)], generator.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    drawn = fill_in(case, normal, generator, case.B, case.M, case.N)
    q, k, v = lay_out(case, [t.to(dtype) for t in drawn])
    extras = extras_of(case, case.B, normal, dtype)
    if (used := extras["seqused_k"]) is not None:
        unused = torch.arange(case.N, device=place) >= used.view(-1, 1)
        for t in (k, v):  # what must not be read would show
            t[unused] = float("nan")
    return {"q": q, "k": k, "v": v, **extras}


def fill_in(
    case: Case, normal: Any, generator: torch.Generator, B: int, M: int, N: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in float32 as `fill` has them."""
    H, G, D, Dv, place = case.H, case.G, case.D, case.get("Dv", case.D), generator.device
    fill = case.one_of("fill", "normal", "magnitudes", "onehot")

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
    return q, k, v


def extras_of(case: Case, B: int, normal: Any, dtype: torch.dtype) -> dict[str, Any]:
    """All arguments but q, k, v and the sequences' places."""
    used, sinks = case.get("used"), case.one_of("sinks", None, "f32", "q", "none")
    slopes, noise = case.one_of("alibi", None, "head", "batch"), normal(case.H)
    left, right = case.get("window", (-1, -1))
    if used is not None:
        used = torch.tensor(used, dtype=torch.int32, device=noise.device)
    return {
        "sinks": None if sinks is None else _sinks(case.H, sinks, noise, dtype),
        "alibi_slopes": None if slopes is None else _slopes(B, case.H, slopes, noise.device),
        "seqused_k": used,
        "causal": case.get("causal", False),
        "scale": case.get("scale", case.D**-0.5),
        "window_left": left, "window_right": right,
        "softcap": case.get("softcap", 0.0),
        "return_lse": case.get("lse", False),
        "deterministic": case.get("deterministic", False),
        "batch_invariant": case.get("invariant", False),
    }  # fmt: skip


def _sinks(H: int, kind: str, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """One a head, each different. `none`: all but the last are -inf, which is no sink."""
    values = noise + torch.arange(H, device=noise.device) / 2
    if kind == "none":
        values[:-1] = float("-inf")
    return values.to(dtype) if kind == "q" else values


def _slopes(B: int, H: int, kind: str, place: torch.device) -> Tensor:
    """2^-(8 h / H) for head h (Press et al., arXiv:2108.12409); `batch` halves them by sequence."""
    slopes = 2.0 ** (-8.0 * torch.arange(1, H + 1, device=place) / max(H, 1))
    if kind == "head":
        return slopes
    return slopes / 2.0 ** torch.arange(B, device=place).view(B, 1)


def lay_out(case: Case, tensors: list[Tensor]) -> list[Tensor]:
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
    left, right = mask.limits(case.get("causal", False), *case.get("window", (-1, -1)), N)
    used = case.get("used", (N,) * B)
    pairs = sum(mask.pairs(M, n, left, right) for n in used)
    elements = B * M * H * (D + Dv) + sum(used) * G * (D + Dv)
    lse = 4 * B * H * M if case.get("lse", False) else 0
    return Cost(
        2 * H * pairs * (D + Dv),
        elements * dtype.itemsize + lse,
        "f32" if dtype == torch.float32 else "f16",
    )


def depends(p: Problem) -> str | None:
    return "its bits depend on the batch" if p.batch_invariant else None


def invariant_only(p: Problem) -> str | None:
    return None if p.batch_invariant else "it is slower, and for batch_invariant=True"


def _sdpa_rejects(p: Problem) -> str | None:
    if reason := depends(p):
        return reason
    M, N = p.q.shape[1], p.k.shape[1]
    for name in ("sinks", "alibi_slopes", "seqused_k"):
        if getattr(p, name) is not None:
            return f"PyTorch's SDPA has no {name}"
    if p.softcap:
        return "PyTorch's SDPA has no softcap"
    if mask.limits(False, p.window_left, p.window_right, N) != (None, None):
        return "PyTorch's SDPA has no window"
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
_LLAMA_70B: dict[str, Any] = dict(B=1, H=64, G=8, D=128)

CASES = (
    Case("tiny", lse=True, **_TINY, dtype="f32", tags=_I),
    Case("tiny-f16", **_TINY, dtype="f16", causal=True, tags=_I),
    Case("tiny-bf16", **_TINY, causal=True, tags=_I),
    Case("plain", B=2, M=33, N=65, H=4, G=2, D=64, causal=True, tags=_I),
    Case("ragged", lse=True, B=1, M=67, N=131, H=4, G=2, D=72, dtype="f16", causal=True, tags=_I),
    Case("ragged-f32", lse=True, B=1, M=130, N=77, H=3, G=3, D=40, dtype="f32", tags=_I),
    Case("dims", B=1, M=37, N=45, H=2, G=1, D=96, Dv=33, dtype="f16", tags=_I),
    Case("dim-1", lse=True, B=1, M=5, N=9, H=1, G=1, D=1, dtype="f32", tags=_I),
    Case("dim-256", B=1, M=40, N=70, H=2, G=2, D=256, causal=True, tags=_I),
    Case("no-keys", lse=True, B=1, M=40, N=17, H=2, G=1, D=32, causal=True, tags=_I),
    Case("keys-empty", lse=True, B=1, M=9, N=0, H=2, G=1, D=32, tags=_I),
    Case("one-key", lse=True, B=1, M=130, N=1, H=2, G=1, D=64, tags=_I),
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
    Case("window", lse=True, B=2, M=70, N=150, H=4, G=2, D=64, window=(30, 10), tags=_I),
    Case("window-causal", B=1, M=200, N=200, H=2, G=1, D=32, window=(70, -1), causal=True,
         dtype="f16", tags=_I),
    Case("window-right", lse=True, B=1, M=90, N=40, H=2, G=2, D=48, window=(-1, 3), dtype="f32",
         tags=_I),
    Case("window-one", lse=True, B=1, M=130, N=130, H=2, G=1, D=16, window=(0, 0), tags=_I),
    Case("window-decode", B=2, M=1, N=300, H=7, G=1, D=64, window=(100, 0), causal=True, tags=_I),
    Case("softcap", lse=True, B=1, M=60, N=90, H=2, G=1, D=64, softcap=15.0, tags=_I),
    Case("softcap-f32", lse=True, B=1, M=50, N=70, H=2, G=2, D=40, softcap=5.0, dtype="f32",
         scale=1.0, causal=True, tags=_I),
    Case("sinks", lse=True, B=2, M=40, N=70, H=6, G=2, D=64, sinks="f32", causal=True, tags=_I),
    Case("sinks-f16", B=1, M=40, N=40, H=7, G=1, D=64, sinks="q", window=(20, 0), causal=True,
         dtype="f16", tags=_I),
    Case("sinks-no-keys", lse=True, B=1, M=40, N=17, H=3, G=1, D=32, sinks="none", causal=True,
         dtype="f32", tags=_I),
    Case("alibi", lse=True, B=2, M=60, N=100, H=4, G=2, D=64, alibi="batch", causal=True, tags=_I),
    Case("alibi-full", B=2, M=70, N=50, H=3, G=3, D=32, alibi="head", dtype="f32", tags=_I),
    Case("used", lse=True, B=4, M=33, N=140, H=4, G=2, D=64, used=(140, 0, 1, 77), causal=True,
         tags=_I),
    Case("used-decode", B=3, M=1, N=300, H=8, G=2, D=128, used=(300, 129, 7), dtype="f16",
         tags=_I),
    Case("used-window", lse=True, B=3, M=50, N=140, H=2, G=1, D=64, used=(20, 140, 96),
         window=(40, 5), tags=_I),
    Case("everything", lse=True, B=2, M=70, N=130, H=6, G=2, D=72, Dv=40, sinks="q",
         alibi="batch", used=(130, 65), causal=True, window=(50, -1), softcap=30.0, tags=_I),
    Case("invariant", lse=True, B=2, M=5, N=70, H=4, G=2, D=16, dtype="f16", causal=True,
         sinks="q", used=(70, 9), invariant=True, tags=_I),
    Case("invariant-ragged", B=1, M=19, N=37, H=3, G=1, D=40, causal=True, lse=True,
         invariant=True, tags=_I),
    Case("invariant-sparse", B=1, M=70, N=9, H=1, G=1, D=16, dtype="f16", layout="sparse",
         invariant=True, tags=_I),
    Case("gpt-oss-prefill", B=1, M=4096, N=4096, H=64, G=8, D=64, causal=True, window=(127, 0),
         sinks="q", cpu=dict(M=256, N=256, H=16, G=2), tags={"bench", "aot"}),
    Case("gemma2-prefill", B=1, M=4096, N=4096, H=16, G=8, D=256, causal=True, softcap=50.0,
         cpu=dict(M=128, N=128, H=4, G=2), tags={"aot"}),
    Case("aot-everything", lse=True, B=2, M=1001, N=1001, H=8, G=2, D=128, sinks="q",
         alibi="batch", used=(1001, 700), causal=True, window=(300, -1), softcap=30.0,
         cpu=dict(M=65, N=65, used=(65, 40)), tags={"aot"}),
    Case("aot-everything-f32", lse=True, B=2, M=1001, N=1001, H=8, G=2, D=128, sinks="f32",
         alibi="batch", used=(1001, 700), causal=True, window=(300, -1), softcap=30.0, dtype="f32",
         cpu=dict(M=65, N=65, used=(65, 40)), tags={"aot"}),
    Case("llama3-8b-prefill", M=4096, N=4096, causal=True, **_LLAMA,
         cpu=dict(M=256, N=256), tags={"bench", "accept", "aot", "energy"}),
    Case("llama3-8b-full", M=4096, N=4096, **_LLAMA,
         cpu=dict(M=256, N=256), tags={"bench", "aot"}),
    Case("llama3-8b-prefill-invariant", M=4096, N=4096, causal=True, invariant=True, **_LLAMA,
         cpu=dict(M=256, N=256), tags={"bench", "aot"}),
    Case("llama3-8b-decode", M=1, N=8192, causal=True, **_LLAMA,
         cpu=dict(N=2048), tags={"bench", "accept", "aot", "energy"}),
    Case("llama3-8b-chunk", M=512, N=8192, causal=True, lse=True, **_LLAMA,
         cpu=dict(M=64, N=512), tags={"bench", "accept", "aot"}),
    Case("llama3-70b-prefill", M=8192, N=8192, causal=True, **_LLAMA_70B,
         cpu=dict(M=128, N=128, H=16, G=2), tags={"bench"}),
    Case("llama3-70b-full", M=8192, N=8192, **_LLAMA_70B,
         cpu=dict(M=128, N=128, H=16, G=2), tags={"bench"}),
    Case("llama3-70b-decode", M=1, N=8192, causal=True, **_LLAMA_70B,
         cpu=dict(N=512, H=16, G=2), tags={"bench"}),
    Case("dim-64-prefill", B=1, M=8192, N=8192, H=64, G=8, D=64, causal=True,
         cpu=dict(M=128, N=128, H=16, G=2), tags={"bench"}),
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


def edit(**change: Any) -> Any:
    """Arguments with some of them changed, for `Invalid`."""
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


ERRORS = (
    Invalid("q has three dims", edit(q=lambda a: a["q"][0]), "q must be"),
    Invalid("q is float64", edit(q=lambda a: a["q"].double()), "q must be f16, bf16 or f32"),
    Invalid("k of another dtype", edit(k=lambda a: a["k"].half()), "k must have the dtype of q"),
    Invalid("v is integer", edit(v=lambda a: a["v"].int()), "v must be"),
    Invalid("batches differ", edit(k=lambda a: a["k"].repeat(2, 1, 1, 1)), "batch of q"),
    Invalid("k and v differ in length", edit(v=lambda a: a["v"][:, :-1]), "v must have"),
    Invalid("head dims differ", edit(k=lambda a: a["k"][..., :8]), "k must have the head dim"),
    Invalid("head dim of 257", edit(
        q=lambda a: a["q"].new_zeros(1, 4, 2, 257), k=lambda a: a["q"].new_zeros(1, 16, 1, 257)
    ), "1 to 256, got 257; 512, and latent attention .* not there yet"),
    Invalid("q is fp8", edit(q=lambda a: a["q"].to(torch.float8_e4m3fn)),
            "q must be f16, bf16 or f32, got .*; fp8 attention is not there yet"),
    Invalid("head dim of 0", edit(v=lambda a: a["v"][..., :0]), "1 to 256, got 0"),
    Invalid("heads do not divide", edit(
        k=lambda a: a["k"].repeat(1, 1, 3, 1), v=lambda a: a["v"].repeat(1, 1, 3, 1)
    ), "multiple of those of k"),
    Invalid("window below -1", edit(window_left=lambda a: -2), "left side of window must be -1"),
    Invalid("window too wide", edit(window_right=lambda a: 2**31), "right side of window must"),
    Invalid("softcap is negative", edit(softcap=lambda a: -1.0), "softcap must be 0"),
    Invalid("softcap is nan", edit(softcap=lambda a: float("nan")), "softcap must be 0"),
    Invalid("sinks of the key heads", edit(sinks=lambda a: torch.zeros(1)),
            r"sinks must be \[2\]"),
    Invalid("sinks are f64", edit(sinks=lambda a: torch.zeros(2).double()), "sinks must be"),
    Invalid("slopes of another batch", edit(alibi_slopes=lambda a: torch.zeros(3, 2)),
            "alibi_slopes must be float32"),
    Invalid("slopes are f16", edit(alibi_slopes=lambda a: torch.zeros(2).half()),
            "alibi_slopes must be float32"),
    Invalid("seqused_k is i64", edit(seqused_k=lambda a: torch.zeros(1, dtype=torch.int64)),
            "seqused_k must be int32"),
    Invalid("seqused_k of another batch", edit(seqused_k=lambda a: torch.zeros(2).int()),
            r"seqused_k must be int32 \[1\]"),
    Invalid("seqused_k is negative", edit(seqused_k=lambda a: torch.tensor([-1]).int()),
            "seqused_k must be 0 to 16", value=True),
    Invalid("seqused_k beyond k", edit(seqused_k=lambda a: torch.tensor([17]).int()),
            "seqused_k must be 0 to 16", value=True),
    Invalid("scale is nan", edit(scale=lambda a: float("nan")), "scale must be finite"),
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
    values=values,
    outputs=("out", "lse"),
    backward=fused_backward("attention_backward"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_fwd:launch",
            sources=FORWARD_SOURCES,
            rejects=depends,
            configs=lambda p: candidates(Shape.of(p.q, p.k, p.v, queries_of(p.q, p.k)), p.sm or 90),
        ),
        Provider.triton(
            "triton_invariant",
            "aimills_kernels.kernels.attention.triton_invariant:launch_batch",
            rejects=invariant_only,
            sources=INVARIANT_SOURCES,
        ),
        Provider(
            "sdpa",
            "aimills_kernels.kernels.attention.sdpa:launch",
            devices=("cpu", "cuda"),
            rejects=_sdpa_rejects,
            vendor=True,
        ),
    ),
    reference_rejects=depends,
)
