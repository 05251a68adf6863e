"""The calls of ours in one forward pass of a model, and the work that no op takes.

Weights are fp8 with a scale for each row, activations are quantised to fp8 by row before each of
them; q, k and v are one matmul, and so are gate and up, as serving stacks fuse them. With tensor
parallelism over `tp` GPUs heads, columns and rows are divided among them, and a key-value head is
repeated where there are fewer of them than GPUs; what follows is the work of one GPU.

What no op takes yet is a `Gap`, with its cost, so that a sum can say how much it covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from aimills_kernels._op import Case, Cost
from aimills_kernels._registry import get_op
from aimills_kernels.harness._layers import Dim, Linear, of_decoder, of_video, of_vision
from aimills_kernels.harness.models import Decoder, Model
from aimills_kernels.kernels.attention.mask import pairs as visible_pairs

FRAMES, FRAME, TARGET = 16, (1080, 1920), (560, 1008)  # the video that a vision tower is given
ELEMENTWISE = (
    "embedding, norms, rotary embedding, activation functions and residuals; "
    "communication between GPUs"
)
TAG = "bench"


@dataclass(frozen=True)
class Attend:
    """An attention in each of `layers` layers. `keys` and `batch` are named as rows are."""

    name: str
    layers: int
    heads: Dim
    kv_heads: Dim
    dim: int
    dim_v: int
    causal: bool
    batch: str
    queries: str
    keys: str
    window: int | None = None
    gap: str = ""


@dataclass(frozen=True)
class Call:
    """One of our ops on one problem, so many times in a forward pass."""

    op: str
    case: Case
    count: int


@dataclass(frozen=True)
class Gap:
    """Work that no op takes, `count` times in a forward pass."""

    what: str
    count: int
    cost: Cost


@dataclass(frozen=True)
class Forward:
    """One forward pass of a model on one GPU of `tp`."""

    model: str
    phase: str
    tp: int
    layers: int
    calls: tuple[Call, ...]
    gaps: tuple[Gap, ...]

    def not_covered(self) -> list[str]:
        """In words, what is missing from a sum over `calls`."""
        return [f"{g.what} ({g.count} x)" for g in self.gaps] + [ELEMENTWISE]


def _attends(model: Model, phase: str) -> list[Attend]:
    if phase == "vision" and (v := model.vision):
        heads, dim = Dim(v.num_heads, cut=True), v.hidden_size // v.num_heads
        near = Attend("window attention", v.depth - v.fullatt_blocks, heads, heads, dim, dim, False,
                      "windows", "window", "window")  # fmt: skip
        full = replace(near, name="attention", layers=v.fullatt_blocks, batch="frames",
                       queries="frame", keys="frame")  # fmt: skip
        return [near, full]
    if t := model.video:
        heads, dim = Dim(t.num_attention_heads, cut=True), t.attention_head_dim
        own = Attend("attention", t.num_layers, heads, heads, dim, dim, False, "sequences",
                     "context", "context")  # fmt: skip
        return [own, replace(own, name="cross attention", keys="text_len")]
    assert model.decoder
    return _decoder_attends(model.decoder, phase)


def _decoder_attends(c: Decoder, phase: str) -> list[Attend]:
    heads, kv = Dim(c.num_attention_heads, cut=True), Dim(c.num_key_value_heads, cut=True,
                                                          repeat=True)  # fmt: skip
    one = Attend("attention", c.num_hidden_layers, heads, kv, c.head_dim, c.head_dim, True,
                 "sequences", "queries", "context")  # fmt: skip
    if a := c.latent:
        if phase == "prefill":  # keys and values of each head are made, and attended to as usual
            return [replace(one, dim_v=a.v_head_dim)]
        latent = a.kv_lora_rank + a.qk_rope_head_dim
        return [replace(one, kv_heads=Dim(1), dim=latent, dim_v=a.kv_lora_rank,
                        gap="latent attention (MLA)")]  # fmt: skip
    why = ["attention sinks"] if c.sinks else []
    if not c.sliding_window:
        return [replace(one, gap=", ".join(why))]
    half = c.num_hidden_layers // 2
    near = replace(one, name="window attention", layers=half, window=c.sliding_window,
                   gap=", ".join(["sliding-window attention", *why]))  # fmt: skip
    full = replace(one, layers=c.num_hidden_layers - half)
    return [near, replace(full, gap=", ".join(["attention", *why]) if why else "")]


def forward(
    model: Model, phase: str, *, tp: int = 1, batch: int = 1, context: int | None = None
) -> Forward:
    """The calls of one pass over `batch` sequences of `context` tokens, or one more token of each
    (decode). ValueError where the model has no such phase, or `tp` does not divide it."""
    if phase not in model.phases:
        raise ValueError(f"{model.name} has no phase {phase!r}; it has: {', '.join(model.phases)}")
    sizes = _sizes(model, phase, batch, context)
    label = f"{model.name} tp{tp} {phase}"
    calls: list[Call] = []
    gaps: list[Gap] = []
    if phase == "vision":
        calls.append(_preprocessing(batch))
    for attend in _attends(model, phase):
        _add_attention(calls, gaps, model, attend, tp, sizes)
    for weight in _linears_of(model, phase):
        _add_linear(calls, gaps, model, weight, tp, sizes)
    return Forward(model.name, phase, tp, _layers(model, phase), _merged(calls, label), tuple(gaps))


def _linears_of(model: Model, phase: str) -> Iterator[Linear]:
    if phase == "vision" and model.vision:
        yield from of_vision(model.vision)
    elif model.video:
        yield from of_video(model.video)
    elif model.decoder:
        for w in of_decoder(model.decoder):
            if w.name == "kv_b" and phase == "decode":
                w = replace(w, gap="latent attention (MLA), into which kv_b is absorbed")
            yield w


def _layers(model: Model, phase: str) -> int:
    if phase == "vision" and model.vision:
        return model.vision.depth
    return model.video.num_layers if model.video else model.decoder.num_hidden_layers  # type: ignore[union-attr]


def _sizes(model: Model, phase: str, batch: int, context: int | None) -> dict[str, int]:
    """What rows, batches and lengths are counted in."""
    if phase == "vision" and (v := model.vision):
        frames = batch * FRAMES // v.temporal_patch_size
        frame = prod(side // v.patch_size for side in TARGET)
        window = (v.window_size // v.patch_size) ** 2
        patches = frames * frame
        return {
            "frames": frames, "frame": frame, "window": window, "windows": patches // window,
            "patches": patches, "merged": patches // v.spatial_merge_size**2,
        }  # fmt: skip
    context = context or (model.video.video_tokens if model.video else 8192)
    queries = 1 if phase == "decode" else context
    sizes = {"sequences": batch, "context": context, "queries": queries, "tokens": batch * queries}
    if model.video:
        sizes |= {"text_len": model.video.text_len, "text": batch * model.video.text_len}
    return sizes


def _add_attention(
    calls: list[Call], gaps: list[Gap], model: Model, a: Attend, tp: int,
    sizes: dict[str, int],
) -> None:  # fmt: skip
    heads, kv = (
        a.heads.on(tp, model.name, "heads"),
        a.kv_heads.on(tp, model.name, "key-value heads"),
    )
    B, M, N = sizes[a.batch], sizes[a.queries], sizes[a.keys]
    if not a.gap:
        dims: dict[str, Any] = dict(
            B=B, M=M, N=N, H=heads, G=kv, D=a.dim, Dv=a.dim_v, causal=a.causal
        )
        calls.append(Call("attention", _case("attention", a.name, dims), a.layers))
        return
    pairs = visible_pairs(M, N, None, 0) if a.causal else M * N
    if a.window and a.window < N:
        pairs -= visible_pairs(M, N - a.window, None, 0)
        N = min(N, M + a.window)
    # A latent cache is read once: its values are among its keys.
    cached = N * kv * (a.dim + a.dim_v * (a.kv_heads.units > 1))
    moved = 2 * B * (M * heads * (a.dim + a.dim_v) + cached)
    gaps.append(Gap(a.gap, a.layers, Cost(2 * B * heads * pairs * (a.dim + a.dim_v), moved, "f16")))


def _add_linear(
    calls: list[Call], gaps: list[Gap], model: Model, w: Linear, tp: int,
    sizes: dict[str, int],
) -> None:  # fmt: skip
    rows = sizes[w.rows]
    n = sum(d.on(tp, model.name, f"columns or heads of {w.name}") for d in w.n)
    k = w.k.on(tp, model.name, f"rows or heads of {w.name}")
    if w.gap:
        met = min(w.copies, rows * w.active)  # copies of the weight that are read, at the most
        moved = met * n * k + rows * w.active * (k + 2 * n)
        gaps.append(Gap(w.gap, w.layers, Cost(2 * rows * w.active * n * k, moved, "fp8")))
        return
    quantize: dict[str, Any] = dict(shape=(rows, k), granularity="row")
    calls.append(
        Call(
            "quantize_fp8",
            _case("quantize_fp8", f"quantize {rows}x{k}", quantize),
            w.layers,
        )
    )
    matmul: dict[str, Any] = dict(M=rows, N=n, K=k, scale_a="row", scale_b="row")
    if w.bias:
        matmul["bias"] = "bf16"
    calls.append(Call("matmul_fp8", _case("matmul_fp8", w.name, matmul), w.layers))


def _preprocessing(batch: int) -> Call:
    dims: dict[str, Any] = dict(F=batch * FRAMES, H=FRAME[0], W=FRAME[1], h=TARGET[0], w=TARGET[1])
    return Call("video_to_tensor", _case("video_to_tensor", "preprocessing", dims), 1)


def _merged(calls: list[Call], label: str) -> tuple[Call, ...]:
    """Equal problems are one call, under both names: they would be timed twice."""
    equal: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        equal.setdefault((call.op, repr(call.case.dims)), []).append(call)
    found = []
    for same in equal.values():
        first, names = same[0].case, dict.fromkeys(c.case.name for c in same)
        case = Case(f"{label} {' + '.join(names)}", tags={TAG}, cpu=first.cpu, **first.dims)
        found.append(Call(same[0].op, case, sum(c.count for c in same)))
    return tuple(found)


# ---- on a CPU


_MOST_FLOPS = {"attention": 2**28, "matmul_fp8": 2**26, "quantize_fp8": 2**19}
_HALVED = {"attention": ("B", "M", "N"), "matmul_fp8": ("M", "N", "K"), "quantize_fp8": ("rows",)}


def _case(op: str, name: str, dims: dict[str, Any]) -> Case:
    return Case(name, cpu=_smaller(op, dims), **dims)


def _smaller(op: str, dims: dict[str, Any]) -> dict[str, Any]:
    """What a CPU takes instead: the largest of the dims that count tokens or columns is halved
    until it is done in some milliseconds, and a single frame is taken of a video."""
    if op == "video_to_tensor":
        return {"F": 1}
    cost, small = get_op(op).cost, dict(dims)
    while cost(Case("", **small)).flops > _MOST_FLOPS[op]:
        if op == "quantize_fp8":
            rows, k = small["shape"]
            if rows == 1:
                break
            small["shape"] = (rows // 2, k)
            continue
        names = _HALVED[op]
        most = max(small[n] for n in names)
        if most == 1:
            break
        square = op == "attention" and small["M"] == small["N"]  # causal stays causal
        for n in names:
            if small[n] == most:
                small[n] = most // 2
                if not (square and n == "M"):
                    break
    return {k: v for k, v in small.items() if v != dims[k]}
