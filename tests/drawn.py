"""Problems drawn by hypothesis, one strategy for each op."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from aimills_kernels._op import Case

_dtypes = st.sampled_from(["f16", "bf16", "f32"])


def few(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


# Elements of an output of attention. The tolerance goes by the reference's own error, which is next
# to none by luck where there are few: PyTorch's SDPA, whose weights have 16 bits, was beyond it in
# a quarter of outputs of one element, in 5 % of 8 and in 0.1 % of 64.
ENOUGH = 256


def _with_enough(case: dict[str, Any], rows: int) -> dict[str, Any]:
    """The case with wider values where its rows, one a query and head, are few. Of fewer than four
    log-sum-exps all may lie near 0, where no float32 is exact relative to them."""
    wide = max(case["Dv"], -(-ENOUGH // rows) if rows else 0)
    case |= {"Dv": wide, "lse": case["lse"] and (rows >= 4 or not rows)}
    if case["layout"] == "packed":  # one tensor holds all three
        case["D"] = wide
    return case


@st.composite
def attention_cases(draw: st.DrawFn) -> Case:
    lengths, dims = st.integers(0, 40), st.integers(1, 70)
    groups, repeats = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    case = {
        "B": draw(st.integers(0, 3)), "M": draw(lengths), "N": draw(lengths),
        "H": groups * repeats, "G": groups, "D": draw(dims), "Dv": draw(dims),
        "dtype": draw(_dtypes), "causal": draw(st.booleans()), "lse": draw(st.booleans()),
        "layout": draw(st.sampled_from(["contiguous", "packed", "heads_first"])),
        "window": draw(st.just((-1, -1)) | st.tuples(st.integers(-1, 45), st.integers(-1, 45))),
        "softcap": draw(st.sampled_from([0.0, 0.0, 0.5, 20.0])),
        "sinks": draw(st.sampled_from([None, None, "f32", "q", "none"])),
        "alibi": draw(st.sampled_from([None, None, "head", "batch"])),
        "invariant": draw(st.sampled_from([False, False, True])),
    }  # fmt: skip
    if case["layout"] == "packed":  # one tensor holds all three
        case |= {"N": case["M"], "Dv": case["D"]}
    if draw(st.booleans()):
        case["used"] = tuple(draw(st.integers(0, case["N"])) for _ in range(case["B"]))
    return Case("drawn", **_with_enough(case, case["B"] * case["M"] * case["H"]))


@st.composite
def varlen_cases(draw: st.DrawFn) -> Case:
    case = dict(draw(attention_cases()).dims)
    sequences = draw(st.integers(0, 5))
    lengths = st.lists(st.integers(0, 70), min_size=sequences, max_size=sequences)
    q_lens, k_lens = draw(lengths), draw(lengths)
    if case["layout"] == "packed":
        k_lens = q_lens
    for name in ("B", "M", "N", "used"):
        case.pop(name, None)
    if draw(st.booleans()):
        case["used"] = tuple(draw(st.integers(0, n)) for n in k_lens)
    case = _with_enough(case, sum(q_lens) * case["H"])
    return Case("drawn", q_lens=tuple(q_lens), k_lens=tuple(k_lens), tail=draw(st.integers(0, 20)),
                **case)  # fmt: skip


@st.composite
def backward_cases(draw: st.DrawFn, forward: st.SearchStrategy[Case]) -> Case:
    """Few heads, half the tokens: a case is four kernels, and the interpreter is slow."""
    case = dict(draw(forward).dims)
    if "q_lens" in case:
        halved = [name for name in ("q_lens", "k_lens", "used") if name in case]
        case |= {name: tuple(n // 2 for n in case[name]) for name in halved}
    case["H"] = case["H"] // case["G"] % 3 * case["G"] + case["G"]
    for name in ("dlse", "dslopes", "deterministic"):
        case[name] = draw(st.booleans())
    case["dslopes"] &= case["alibi"] is not None
    case["grad"] = draw(st.sampled_from(["contiguous", "heads_first", "expanded"]))
    case["saved"] = draw(st.sampled_from(["lse", "lse", "lse", "none"]))
    del case["lse"]
    return Case("drawn", **case)


@st.composite
def paged_cases(draw: st.DrawFn) -> Case:
    case = dict(draw(attention_cases()).dims)
    for name in ("B", "M", "N", "used"):
        case.pop(name, None)
    case["layout"] = draw(st.sampled_from(["contiguous", "packed", "heads_first"]))
    lens = draw(st.lists(st.integers(0, 70), max_size=3))
    if draw(st.booleans()):
        lengths = st.lists(st.integers(0, 9), min_size=len(lens), max_size=len(lens))
        case |= {"q_lens": tuple(draw(lengths)), "tail": draw(st.integers(0, 3))}
    else:
        case["M"] = draw(st.integers(0, 5))
    if case["dtype"] != "f32" and draw(st.booleans()):
        case |= {"cache": "e4m3", "scales": draw(st.sampled_from([None, "tensor", "head"]))}
    queries = sum(case["q_lens"]) if "q_lens" in case else case["M"] * len(lens)
    case = _with_enough(case, queries * case["H"])
    return Case(
        "drawn", n=tuple(lens), page=draw(st.sampled_from([1, 3, 16, 64])),
        spare=draw(st.integers(0, 3)), capacity=draw(st.sampled_from([0, 0, 90, 300])),
        q_strided=draw(st.booleans()), **case,
    )  # fmt: skip


@st.composite
def append_cases(draw: st.DrawFn) -> Case:
    lens = tuple(draw(st.lists(st.integers(0, 70), max_size=3)))
    case = {"dtype": draw(_dtypes), "cache": None}
    if draw(st.booleans()):
        lengths = st.lists(st.integers(0, 6), min_size=len(lens), max_size=len(lens))
        case |= {"q_lens": tuple(draw(lengths)), "tail": draw(st.integers(0, 3))}
    else:
        case["new"] = draw(st.integers(0, 6))
    if case["dtype"] != "f32" and draw(st.booleans()):
        case |= {"cache": "e4m3", "scales": draw(st.sampled_from([None, "tensor", "head"]))}
    return Case(
        "drawn", n=lens, page=draw(st.sampled_from([1, 3, 16, 64])), spare=draw(st.integers(0, 3)),
        G=draw(st.integers(1, 3)), D=draw(st.integers(1, 70)), Dv=draw(st.integers(1, 70)),
        layout=draw(st.sampled_from(["contiguous", "packed", "heads_first"])),
        strided=draw(st.booleans()), **case,
    )  # fmt: skip


@st.composite
def merge_cases(draw: st.DrawFn) -> Case:
    sizes = st.integers(0, 12)
    shape = (*draw(st.just(()) | st.tuples(st.integers(0, 3))), draw(sizes), draw(sizes))
    return Case(
        "drawn", shape=(*shape, draw(st.integers(1, 90))), dtype=draw(_dtypes),
        fill=draw(st.sampled_from(["normal", "empty", "far"])),
        layout=draw(st.sampled_from(["contiguous", "strided"])),
    )  # fmt: skip


@st.composite
def matmul_cases(draw: st.DrawFn) -> Case:
    sides, scales = st.integers(0, 150), ["row", "tensor", "one", "1x128"]
    codes = st.sampled_from(["e4m3", "e4m3", "e5m2"])
    return Case(
        "drawn", M=draw(sides), K=draw(st.integers(0, 300)), **_activation(draw),
        scale_a=draw(st.sampled_from(scales)), scale_b=draw(st.sampled_from([*scales, "128x128"])),
        a=draw(codes), b=draw(codes), bias=draw(st.none() | _dtypes), out=draw(_dtypes),
        accum=draw(st.sampled_from(["promoted", "fast"])), invariant=draw(st.booleans()),
        layout=draw(st.sampled_from(["contiguous", "transposed", "sliced", "expanded"])),
        residual=draw(st.none() | _dtypes),
    )  # fmt: skip


@st.composite
def matmul_quantize_cases(draw: st.DrawFn) -> Case:
    dims = dict(draw(matmul_cases()).dims)
    dims.pop("residual")
    dims.pop("out")
    return Case(
        "drawn", **dims, granularity=draw(st.sampled_from(["row", "1x128"])),
        codes=draw(st.sampled_from(["e4m3", "e4m3", "e5m2"])),
    )  # fmt: skip


def _activation(draw: st.DrawFn, most: int = 150) -> dict[str, Any]:
    """And N, which is even where half of it is a gate."""
    kinds = ["none", "none", "relu", "gelu", "gelu_tanh", "silu", "swiglu"]
    act, N = draw(st.sampled_from(kinds)), draw(st.integers(0, most))
    return {"act": act, "N": N + N % 2 if act == "swiglu" else N}


@st.composite
def int8_cases(draw: st.DrawFn) -> Case:
    scales = st.sampled_from(["row", "tensor", "one"])
    return Case(
        "drawn", M=draw(st.integers(0, 90)), **_activation(draw),
        residual=draw(st.none() | _dtypes), K=draw(st.integers(0, 300)),
        scale_a=draw(scales), scale_b=draw(scales),
        zero=draw(st.sampled_from([None, "codes", "ends"])), zeros=draw(scales),
        fill=draw(st.sampled_from(["uniform", "ends", "magnitudes"])),
        bias=draw(st.none() | _dtypes), out=draw(_dtypes), invariant=draw(st.booleans()),
        layout=draw(st.sampled_from(["contiguous", "transposed", "sliced", "expanded"])),
    )  # fmt: skip


@st.composite
def w4_cases(draw: st.DrawFn) -> Case:
    group = draw(st.sampled_from([32, 64, 128, "channel"]))
    order = draw(st.sampled_from(["by group", "act", "shard"]))
    case: dict[str, Any] = {"order": order} if group != "channel" else {}
    if group != "channel" and order == "by group":
        case["offset"] = draw(st.integers(0, group - 1))
    return Case(
        "drawn", M=draw(st.integers(0, 70)), **_activation(draw),
        residual=draw(st.none() | _dtypes),
        K=draw(st.integers(1, 300)), group=group, asym=draw(st.booleans()), **case,
        dtype=draw(st.sampled_from(["bf16", "f16"])), scales=draw(_dtypes),
        bias=draw(st.none() | _dtypes),
        layout=draw(st.sampled_from(["contiguous", "transposed", "sliced"])),
    )  # fmt: skip


@st.composite
def w8_cases(draw: st.DrawFn) -> Case:
    return Case(
        "drawn", M=draw(st.integers(0, 90)), **_activation(draw),
        residual=draw(st.none() | _dtypes), K=draw(st.integers(0, 300)),
        dtype=draw(st.sampled_from(["bf16", "f16"])),
        scale_b=draw(st.sampled_from(["row", "tensor", "one"])), bias=draw(st.none() | _dtypes),
        invariant=draw(st.booleans()),
        layout=draw(st.sampled_from(["contiguous", "transposed", "sliced", "expanded"])),
    )  # fmt: skip


def _groups(draw: st.DrawFn) -> dict[str, Any]:
    counts = tuple(draw(st.lists(st.integers(0, 25), max_size=5)))
    if draw(st.booleans()):
        return {"counts": counts, "tail": draw(st.integers(0, 9)), "lead": draw(st.booleans())}
    return {"counts": counts, "masked": True, "M": max(counts, default=0) + draw(st.integers(0, 9))}


@st.composite
def grouped_fp8_cases(draw: st.DrawFn) -> Case:
    scales_b = st.sampled_from(["tensor", "one", "group", "row", "1x128", "128x128"])
    return Case(
        "drawn", **_groups(draw), **_activation(draw, 60), K=draw(st.integers(0, 280)),
        scale_a=draw(st.sampled_from(["tensor", "one", "row", "1x128"])), scale_b=draw(scales_b),
        bias=draw(st.none() | _dtypes), out=draw(_dtypes),
        layout=draw(st.sampled_from(["contiguous", "transposed", "sliced"])),
        residual=draw(st.none() | _dtypes),
    )  # fmt: skip


@st.composite
def grouped_quantize_cases(draw: st.DrawFn) -> Case:
    dims = dict(draw(grouped_fp8_cases()).dims)
    dims.pop("residual")
    dims.pop("out")
    return Case(
        "drawn", **dims, granularity=draw(st.sampled_from(["row", "1x128"])),
        codes=draw(st.sampled_from(["e4m3", "e4m3", "e5m2"])),
    )  # fmt: skip


@st.composite
def grouped_w4_cases(draw: st.DrawFn) -> Case:
    dims = dict(draw(w4_cases()).dims)
    dims.pop("M")
    return Case("drawn", **dims, **_groups(draw))


@st.composite
def quantize_int8_cases(draw: st.DrawFn) -> Case:
    dims = dict(draw(quantize_cases()).dims)
    dims["granularity"] = draw(st.sampled_from(["tensor", "row"]))
    dims.pop("codes", None)
    return Case("drawn", symmetric=draw(st.booleans()), **dims)


@st.composite
def quantize_cases(draw: st.DrawFn) -> Case:
    lead = draw(st.lists(st.integers(0, 6), max_size=3))
    layouts = ["contiguous", "sliced", "permuted"] if lead else ["contiguous", "sliced"]
    kinds = ["tensor", "row", "1x128", *(["128x128"] if len(lead) == 1 else [])]
    return Case(
        "drawn", shape=(*lead, draw(st.integers(0, 300))),
        granularity=draw(st.sampled_from(kinds)), dtype=draw(_dtypes),
        codes=draw(st.sampled_from(["e4m3", "e4m3", "e5m2"])),
        layout=draw(st.sampled_from(layouts)),
    )  # fmt: skip


@st.composite
def fused_cases(draw: st.DrawFn) -> Case:
    lead = draw(st.lists(st.integers(0, 5), max_size=2))
    return Case(
        "drawn", shape=(*lead, draw(st.integers(0, 300))), dtype=draw(_dtypes),
        weight=draw(_dtypes), granularity=draw(st.sampled_from(["row", "1x128"])),
        residual=draw(st.booleans()), codes=draw(st.sampled_from(["e4m3", "e4m3", "e5m2"])),
    )  # fmt: skip


@st.composite
def video_cases(draw: st.DrawFn, source: int, size: int) -> Case:
    """Sides of up to `source` to sides of up to `size`."""
    sources, sizes = (
        st.integers(1, 9) | st.integers(1, source),
        st.integers(1, 9) | st.integers(1, size),
    )
    return Case(
        "drawn", F=draw(st.integers(0, 3)), H=draw(sources), W=draw(sources), h=draw(sizes),
        w=draw(sizes), dtype=draw(_dtypes),
        interpolation=draw(st.sampled_from(["nearest", "area", "bilinear", "bicubic", "lanczos"])),
        format=draw(st.sampled_from(["nv12", "p010", "i420", "yuv444p", "rgb24", "rgb48"])),
        mode=draw(st.sampled_from(["torch", "torch", "fast", "pil", "pil13"])),
        store=draw(st.sampled_from(["NCHW", "NHWC", "NCTHW"])),
        flip=draw(st.booleans()), rotate=draw(st.sampled_from([0, 90, 180, 270])),
        space=draw(st.sampled_from(["bt601", "bt709", "bt2020"])),
        range=draw(st.sampled_from(["limited", "full"])),
        location=draw(st.sampled_from(["left", "center", "topleft"])),
        upsampling=draw(st.sampled_from(["linear", "nearest"])),
        fill=draw(st.sampled_from(["noise", "impulses", "rows", "saturated"])),
        layout=draw(st.sampled_from(["tight", "pitched", "strided"])),
    )  # fmt: skip


@st.composite
def ragged_cases(draw: st.DrawFn, source: int, units: int) -> Case:
    """Sides of up to `source` to sides of up to `units` patches, or 9."""
    sides = st.integers(1, 9) | st.integers(1, source)
    count = draw(st.integers(1, 4))
    tokens = draw(st.booleans())
    unit, many = draw(st.sampled_from([1, 2, 7])), st.integers(1, units)
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    clips = tuple(
        (draw(st.integers(0, 3)), draw(sides), draw(sides),
         *((unit * draw(many), unit * draw(many)) if tokens else (h, w)))
        for _ in range(count)
    )  # fmt: skip
    layout: dict[str, object] = {"store": "patches", "patch": (2, unit, 1)} if tokens else {}
    return Case(
        "drawn", clips=clips, dtype=draw(_dtypes), **layout,
        format=draw(st.sampled_from(["nv12", "p010", "i420", "yuv444p", "rgb24", "rgb48"])),
        interpolation=draw(st.sampled_from(["nearest", "area", "bilinear", "bicubic"])),
        mode=draw(st.sampled_from(["torch", "torch", "pil"])),
        flips=tuple(draw(st.booleans()) for _ in range(count)),
        rotate=draw(st.sampled_from([0, 90])),
    )  # fmt: skip


CASES = {
    "attention": attention_cases(),
    "attention_backward": backward_cases(attention_cases()),
    "attention_varlen": varlen_cases(),
    "attention_varlen_backward": backward_cases(varlen_cases()),
    "attention_paged": paged_cases(),
    "kv_append": append_cases(),
    "merge_attention_states": merge_cases(),
    "matmul_fp8": matmul_cases(),
    "matmul_quantize_fp8": matmul_quantize_cases(),
    "matmul_int8": int8_cases(),
    "matmul_w8": w8_cases(),
    "matmul_w4": w4_cases(),
    "grouped_matmul_fp8": grouped_fp8_cases(),
    "grouped_matmul_w4": grouped_w4_cases(),
    "grouped_matmul_quantize_fp8": grouped_quantize_cases(),
    "quantize_fp8": quantize_cases(),
    "quantize_int8": quantize_int8_cases(),
    "rmsnorm_quantize_fp8": fused_cases(),
    "swiglu_quantize_fp8": fused_cases(),
    "video_to_tensor": video_cases(200, 150),
    "video_to_tensor_ragged": ragged_cases(90, 9),
}
# What takes the interpreter seconds and not minutes.
INTERPRETED = {
    **CASES,
    "video_to_tensor": video_cases(40, 24),
    "video_to_tensor_ragged": ragged_cases(20, 3),
}


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31)
