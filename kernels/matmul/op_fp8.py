"""Matmul of fp8 codes with one scale for each tensor or for each row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import sm_of
from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Judgement, Ratio
from aimills_kernels.kernels.matmul.config import Config, Shape, candidates

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
E4M3 = torch.float8_e4m3fn
_SCALES = ("tensor", "row", "one")
NAN, INF = float("nan"), float("inf")


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """(a * scale_a) @ (b * scale_b).T + bias in float32 (float64 for float64 scales), rounded once.

    a        [M, K]             e4m3
    b        [N, K]             e4m3
    scale_a  [], [1] or [M, 1]  f32
    scale_b  [], [1] or [N, 1]  f32
    bias     [N]                bf16 | f16 | f32, or None
    ->       [M, N]             out_dtype

    The scales are applied to the sums: so operands stay codes, which even tf32 holds exactly.
    """
    wide = torch.promote_types(scale_a.dtype, torch.float32)
    out = a.to(wide) @ b.to(wide).T
    out = out * _column(scale_a) * _column(scale_b).T
    if bias is not None:
        out = out + bias.to(wide)
    return out.to(out_dtype)


def _column(scale: Tensor) -> Tensor:
    return scale.reshape(-1, 1)


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    for name, t in (("a", a), ("b", b)):
        if t.dim() != 2:
            raise ValueError(f"matmul_fp8: {name} must be two-dimensional, got {describe(t)}")
        if t.dtype != E4M3:
            raise ValueError(f"matmul_fp8: {name} must be float8_e4m3fn, got {describe(t)}")
        if torch.is_grad_enabled() and t.requires_grad:
            raise ValueError(
                f"matmul_fp8: {name} holds codes, to which no gradient flows; detach it"
            )
    (M, K), N = a.shape, b.shape[0]
    if b.shape[1] != K:
        raise ValueError(f"matmul_fp8: b must be [N, {K}], as wide as a, got {describe(b)}")
    for name, t, rows in (("scale_a", scale_a, M), ("scale_b", scale_b, N)):
        if t.dtype != torch.float32:
            raise ValueError(f"matmul_fp8: {name} must be float32, got {describe(t)}")
        if tuple(t.shape) not in ((), (1,), (rows, 1)):
            raise ValueError(
                f"matmul_fp8: {name} must be [], [1] or [{rows}, 1], got {describe(t)}"
            )
    if bias is not None:
        if bias.dtype not in DTYPES.values():
            raise ValueError(f"matmul_fp8: bias must be bf16, f16 or f32, got {describe(bias)}")
        if tuple(bias.shape) != (N,):
            raise ValueError(f"matmul_fp8: bias must be [{N}], got {describe(bias)}")
    if out_dtype not in DTYPES.values():
        raise ValueError(
            f"matmul_fp8: out_dtype must be bf16, f16 or f32, got {describe(out_dtype)}"
        )
    return a.new_empty((M, N), dtype=out_dtype)


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype,
) -> None:  # fmt: skip
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        if scale.numel() and not _ends_are_finite(scale):
            raise ValueError(
                f"matmul_fp8: {name} must be finite, got NaN or infinity among {describe(scale)}"
            )


def _ends_are_finite(t: Tensor) -> bool:
    """aminmax carries a NaN through; 3 to 6 us where isfinite().all() takes 9 to 23, item() 0.5."""
    if t.numel() == 1:
        return math.isfinite(t.item())
    low, high = t.aminmax()
    return math.isfinite(low.item()) and math.isfinite(high.item())


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Every row has a scale and a bias of its own, so that a misplaced one shows.

    `fill`: normal, over most codes; one-hot rows of a, which pick a single column of b; the same
    with a bias that takes away all but a 64th of each sum, so that a sum rounded before the bias
    shows; codes and scales of large and tiny magnitudes; rows with NaN codes.
    `layout`: contiguous; transposed; slices at odd offsets; sparse.
    """
    M, N, K, place = case.M, case.N, case.K, generator.device
    fill = case.one_of("fill", "normal", "onehot", "cancelled", "magnitudes", "nan")
    bias_dtype, out_dtype = _dtypes(case)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def power(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return 2.0 ** torch.randint(low, high, shape, generator=generator, device=place)

    def codes(values: Tensor) -> Tensor:
        return values.clamp(-448, 448).to(E4M3)

    a, b = codes(normal(M, K) * 60), codes(normal(N, K) * 60)
    scale_a, scale_b = ((1 + normal(max(n, 1), 1).abs()) / 64 for n in (M, N))
    bias = normal(N) * 8 + torch.arange(N, device=place) % 7 if bias_dtype else None
    if fill in ("onehot", "cancelled"):
        target = torch.randint(0, K, (M, 1), generator=generator, device=place)
        target[0], target[-1] = K - 1, 0
        if fill == "cancelled":  # every row alike
            target, scale_a = target[:1].expand(M, 1), scale_a[:1].expand(M, 1)
        a = torch.zeros(M, K, device=place).scatter_(1, target, 3.0).to(E4M3)
    elif fill == "magnitudes":
        a = codes(normal(M, K) * power(-8, 8, (M, 1)))
        b = codes(normal(N, K) * power(-8, 8, (1, K)))
        scale_a *= power(-30, 8, scale_a.shape)
        scale_b *= power(-8, 8, scale_b.shape)
        scale_b[::2] *= -1
    elif fill == "nan":
        a.view(torch.uint8)[1, K - 1], b.view(torch.uint8)[N - 1, 0] = 0x7F, 0xFF
    named = {
        "a": a,
        "b": b,
        "scale_a": _scale(scale_a, case.one_of("scale_a", *_SCALES), M),
        "scale_b": _scale(scale_b, case.one_of("scale_b", *_SCALES), N),
    }
    if fill == "cancelled":
        row = named["scale_a"].reshape(-1, 1)[:1]
        bias = reference(a[:1], b, row, named["scale_b"], None, torch.float32)[0] * (-63 / 64)
    if bias is not None:
        named["bias"] = bias.to(bias_dtype)
    named = {name: _lay_out(case, name, t) for name, t in named.items()}
    return {"bias": None, **named, "out_dtype": out_dtype}


def _dtypes(case: Case) -> tuple[torch.dtype | None, torch.dtype]:
    """Of the bias, None without one, and of the output."""
    return DTYPES.get(case.one_of("bias", None, *DTYPES)), DTYPES[case.one_of("out", *DTYPES)]


def _scale(values: Tensor, kind: str, rows: int) -> Tensor:
    return {"row": values[:rows], "tensor": values[0, 0], "one": values[0]}[kind].clone()


def _lay_out(case: Case, name: str, t: Tensor) -> Tensor:
    layout = case.one_of("layout", "contiguous", "transposed", "sliced", "expanded", "sparse")
    if layout == "transposed" and t.dim() == 2:
        return t.T.contiguous().T
    if layout == "sliced" and t.dim() == 2:  # rows of a wider tensor, at an odd offset
        pitch = t.shape[1] + 5
        wide = t.new_zeros(t.shape[0] * pitch + 3)[3:]
        return wide.view(t.shape[0], pitch)[:, : t.shape[1]].copy_(t)
    if layout == "sliced" and t.dim() == 1:
        return t.repeat_interleave(3)[::3]
    if layout == "expanded" and name in ("a", "scale_b") and t.dim() == 2:  # one row throughout
        return t[:1].expand(t.shape)
    if layout == "sparse" and name in ("a", "b"):  # row offsets past 2^31 elements
        step = 2**31 // (t.shape[0] - 1) + 64
        view = t.new_empty(step * t.shape[0]).as_strided(t.shape, (step, 1))
        return view.copy_(t)
    return t


def cost(case: Case) -> Cost:
    M, N, K = case.M, case.N, case.K
    scales = sum(
        n if case.get(name) == "row" else 1 for name, n in (("scale_a", M), ("scale_b", N))
    )
    bias_dtype, out_dtype = _dtypes(case)
    bias = N * bias_dtype.itemsize if bias_dtype else 0
    moved = M * K + N * K + M * N * out_dtype.itemsize + 4 * scales + bias
    return Cost(2 * M * N * K, moved, "fp8")


@dataclass(frozen=True)
class Fp8Sum:
    """Ratio; where fp8 tensor cores keep 14 bits of a sum, 2^-13 of the largest value more for a
    float16 output (`docs/adr/0009`). bf16 rounds more away, and a float32 output is summed in
    float32."""

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        tolerance = COARSE if _is_coarse(got.dtype, got.device) else Ratio()
        return tolerance.judge(got, oracle, rounded, args)


COARSE = Ratio(floor=1024.0)
_FOURTEEN_BITS = (89, 90, 120, 121)


def _is_coarse(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype == torch.float16 and device.type == "cuda" and sm_of(device) in _FOURTEEN_BITS


def _scaled_mm_rejects(p: Problem) -> str | None:
    (M, K), N = p.a.shape, p.b.shape[0]
    if 0 in (M, N, K):
        return "the problem is empty"
    row_a, row_b = p.scale_a.dim() == 2, p.scale_b.dim() == 2
    if row_a != row_b:
        return "it takes one scale for both tensors or one for each row of both, not a mix"
    for name, t in (("scale_a", p.scale_a), ("scale_b", p.scale_b), ("bias", p.bias)):
        if t is not None and not t.is_contiguous():
            return f"{name} must be contiguous"
    return _gpu_rejects(p, row_a) if p.device == "cuda" else None


def _gpu_rejects(p: Problem, rows: bool) -> str | None:
    """cuBLASLt's conditions; PyTorch checks them at the call and raises."""
    K, N = p.a.shape[1], p.b.shape[0]
    if p.sm is not None and p.sm < 89:
        return f"sm_{p.sm} has no fp8 tensor cores"
    if p.out_dtype == torch.float32:
        return "fp8 tensor cores sum in about 14 bits, too coarse for a float32 output"
    if rows and p.out_dtype != torch.bfloat16:
        return "with a scale for each row it gives bf16 only"
    if p.bias is not None and p.bias.dtype != p.out_dtype:
        return "the bias must have the dtype of the output"
    if K % 16 or N % 16:
        return f"K and N must be multiples of 16, here {K} and {N}"
    for name, t in (("a", p.a), ("b", p.b)):
        if t.stride(1) != 1 or t.stride(0) % 16 or t.stride(0) < K or t.data_ptr() % 16:
            return f"{name} must have contiguous rows that start at multiples of 16 bytes"
    if p.bias is not None and p.bias.data_ptr() % 16:
        return "the bias must start at a multiple of 16 bytes"
    return None


_LAYERS = {  # Llama-3 8B: N, K
    "qkv": (6144, 4096),
    "gate-up": (28672, 4096),
    "down": (4096, 14336),
}


def _layer_cases() -> tuple[Case, ...]:
    """Decode with a scale for each token and channel, prefill the same and with single scales."""
    found = []
    for layer, (N, K) in _LAYERS.items():
        for M, kind in ((1, "row"), (16, "row"), (4096, "row"), (4096, "tensor")):
            small = dict(M=min(M, 32), N=N // 64, K=K // 8)
            tags = {"bench"} | ({"accept"} if M != 16 else set())
            tags |= {"aot"} if layer == "qkv" and M != 16 and kind == "row" else set()
            tags |= {"energy"} if layer == "gate-up" and M == 4096 and kind == "row" else set()
            name = f"llama3-8b-{layer}-{M}" + ("" if kind == "row" else "-tensor")
            found.append(
                Case(name, M=M, N=N, K=K, scale_a=kind, scale_b=kind, cpu=small, tags=tags)
            )
    return tuple(found)


_ROWS: dict[str, Any] = dict(scale_a="row", scale_b="row")
_I = {"interpret"}

CASES = (
    Case("tiny", M=16, N=32, K=32, **_ROWS, bias="bf16", tags=_I),
    Case("tiny-tensor", M=16, N=32, K=32, out="f16", tags=_I),
    Case("tiny-f32", M=16, N=32, K=32, **_ROWS, bias="f32", out="f32", tags=_I),
    Case("aligned", M=128, N=96, K=160, tags=_I),
    Case("aligned-rows", M=128, N=96, K=160, **_ROWS, bias="bf16", tags=_I),
    Case("ragged", M=67, N=131, K=77, **_ROWS, tags=_I),
    Case("ragged-tensor", M=67, N=131, K=77, scale_a="one", bias="f16", out="f16", tags=_I),
    Case("mixed-a", M=33, N=50, K=200, scale_a="row", scale_b="one", bias="f32", tags=_I),
    Case("mixed-b", M=33, N=50, K=200, scale_b="row", bias="bf16", out="f32", tags=_I),
    Case("several-groups", M=600, N=65, K=32, **_ROWS, tags=_I),
    Case("large-tiles", M=1500, N=1411, K=70, **_ROWS, out="f16", cpu=dict(M=300, N=270)),
    Case("one-row", M=1, N=130, K=290, **_ROWS, bias="bf16", tags=_I),
    Case("few-rows", M=9, N=65, K=260, out="f32", tags=_I),
    Case("one-deep", M=20, N=35, K=1, **_ROWS, out="f32", tags=_I),
    Case("one-column", M=300, N=1, K=130, **_ROWS, out="f16", tags=_I),
    Case("k-empty", M=20, N=35, K=0, **_ROWS, bias="f16", tags=_I),
    Case("k-empty-plain", M=20, N=35, K=0, out="f32", tags=_I),
    Case("m-empty", M=0, N=35, K=16, **_ROWS, bias="bf16", tags=_I),
    Case("n-empty", M=20, N=0, K=16, **_ROWS, tags=_I),
    Case("transposed", M=50, N=70, K=90, **_ROWS, layout="transposed", tags=_I),
    Case("sliced", M=50, N=70, K=96, **_ROWS, bias="bf16", layout="sliced", tags=_I),
    Case("expanded", M=20, N=40, K=33, **_ROWS, layout="expanded", out="f16", tags=_I),
    Case("sparse", M=5, N=9, K=40, **_ROWS, layout="sparse", tags=_I),
    Case("onehot", M=70, N=100, K=210, **_ROWS, fill="onehot", tags=_I),
    Case("onehot-f32", M=9, N=40, K=1025, fill="onehot", out="f32", tags=_I),
    Case("cancelled", M=48, N=64, K=96, fill="cancelled", bias="bf16", tags=_I),
    Case("cancelled-f16", M=48, N=64, K=96, fill="cancelled", bias="f16", out="f16", tags=_I),
    Case("cancelled-rows", M=48, N=64, K=96, **_ROWS, fill="cancelled", bias="bf16", tags=_I),
    Case("magnitudes", M=60, N=90, K=100, **_ROWS, fill="magnitudes", tags=_I),
    Case("magnitudes-f32", M=60, N=90, K=100, **_ROWS, fill="magnitudes", out="f32", tags=_I),
    Case("nan", M=20, N=40, K=70, **_ROWS, fill="nan", bias="bf16", tags=_I),
    Case("deep", M=24, N=40, K=14336, **_ROWS, out="f16"),
    *_layer_cases(),
    Case("aot-f32-large", M=2048, N=2048, K=512, out="f32", cpu=dict(M=64, N=64),
         tags={"aot"}),
    Case("aot-f32-decode", M=8, N=4096, K=512, out="f32", cpu=dict(N=64), tags={"aot"}),
    Case("aot-f16-bias", M=1024, N=1024, K=1024, bias="f16", out="f16", cpu=dict(M=64, N=64),
         tags={"aot"}),
    Case("aot-unaligned", M=512, N=512, K=1000, bias="bf16", cpu=dict(M=64, N=64), tags={"aot"}),
    Case("aot-unaligned-decode", M=8, N=4096, K=1000, cpu=dict(N=64), tags={"aot"}),
    Case("aot-transposed", M=512, N=512, K=512, layout="transposed", cpu=dict(M=64, N=64),
         tags={"aot"}),
)  # fmt: skip


def _with(**change: Any) -> Any:
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


def _spoiled(scale: Tensor, value: float) -> Tensor:
    spoiled = scale.clone()
    spoiled.view(-1)[-1] = value
    return spoiled


ERRORS = (
    Invalid("a has three dims", _with(a=lambda a: a["a"][None]), "a must be two-dimensional"),
    Invalid("b has one dim", _with(b=lambda a: a["b"][0]), "b must be two-dimensional"),
    Invalid("a is bf16", _with(a=lambda a: a["a"].bfloat16()), "a must be float8_e4m3fn"),
    Invalid("b is e5m2", _with(b=lambda a: a["b"].float().to(torch.float8_e5m2)),
            "b must be float8_e4m3fn"),
    Invalid("depths differ", _with(b=lambda a: a["b"][:, :-1]), r"b must be \[N, 32\]"),
    Invalid("scale_a is bf16", _with(scale_a=lambda a: a["scale_a"].bfloat16()),
            "scale_a must be float32"),
    Invalid("scale_b of another length", _with(scale_b=lambda a: a["scale_b"][:-1]),
            r"scale_b must be \[\], \[1\] or \[32, 1\]"),
    Invalid("scale_a without its second dim", _with(scale_a=lambda a: a["scale_a"][:, 0]),
            "scale_a must be"),
    Invalid("scale_b across", _with(scale_b=lambda a: a["scale_b"].T), "scale_b must be"),
    Invalid("scale_a in blocks", _with(scale_a=lambda a: a["scale_a"].repeat(1, 2)),
            "scale_a must be"),
    Invalid("bias of another length", _with(bias=lambda a: a["bias"][:-1]), r"bias must be \[32\]"),
    Invalid("bias of two dims", _with(bias=lambda a: a["bias"][None]), r"bias must be \[32\]"),
    Invalid("bias is integer", _with(bias=lambda a: a["bias"].int()), "bias must be bf16"),
    Invalid("out_dtype is fp8", _with(out_dtype=lambda a: E4M3), "out_dtype must be bf16"),
    Invalid("out_dtype is integer", _with(out_dtype=lambda a: torch.int32), "out_dtype must be"),
    Invalid("scale_a has a nan", _with(scale_a=lambda a: _spoiled(a["scale_a"], NAN)),
            "scale_a must be finite", value=True),
    Invalid("scale_b has an infinity", _with(scale_b=lambda a: _spoiled(a["scale_b"], -INF)),
            "scale_b must be finite", value=True),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    sm = p.sm or 90
    return candidates(Shape.of(p.a, p.b, p.out_dtype, sm), sm)


matmul_fp8 = Op(
    name="matmul_fp8",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Fp8Sum(),),
    errors=ERRORS,
    values=values,
    backward="reference",
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fp8:launch",
            sources=("kernels/matmul/config.py", "kernels/hardware.py"),
            configs=_configs,
        ),
        Provider(
            "scaled_mm",
            "aimills_kernels.kernels.matmul.scaled_mm:launch",
            devices=("cpu", "cuda"),
            rejects=_scaled_mm_rejects,
            vendor=True,
        ),
    ),
)  # fmt: skip
