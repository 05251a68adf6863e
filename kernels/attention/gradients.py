"""What the backward of both attention ops has in common: its formula, checks and inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Backward, Case, Cost, Problem, describe
from aimills_kernels._tolerance import Ratio

SOURCES = tuple(f"kernels/attention/{name}.py" for name in ("config", "mask", "triton_fwd"))
# P and dx are rounded to 16 bits before the second products, and in a sum of few terms that cancel
# all of that stays: docs/adr/0012.
TOLERANCE = (Ratio(factor=4.0),) * 3 + (Ratio(),) * 2
OUTPUTS = ("dq", "dk", "dv", "dsinks", "dslopes")
# Arguments of a forward from `sinks` on: the eight that the backward takes too, `return_lse`,
# `deterministic` and `batch_invariant`. Before them are q, k, v and, of packed sequences, their
# places.
_SINKS, _SLOPES, _LSE, _DETERMINISTIC = -11, -10, -3, -2
_DRAWN = 1 << 24  # pairs of a query and a key, over all heads, whose forward a CPU works out


def fused_backward(op: str) -> Backward:
    return Backward(op, _saving, _arguments, _gradients)


def _saving(args: tuple) -> tuple:
    return (*args[:_LSE], True, *args[_DETERMINISTIC:])


def _arguments(args: tuple, outs: tuple, grads: tuple, needs: tuple[bool, ...]) -> tuple:
    (out, lse), (dout, dlse) = outs, grads
    if dout is None:
        dout = torch.zeros_like(out)
    if not args[_LSE]:
        dlse = None
    return (
        dout, *args[:_SINKS], out, lse, dlse, *args[_SINKS:_LSE], needs[_SLOPES],
        args[_DETERMINISTIC],
    )  # fmt: skip


def _gradients(args: tuple, results: tuple, needs: tuple[bool, ...]) -> tuple:
    found: list[Tensor | None] = [None] * len(args)
    places = (0, 1, 2, len(args) + _SINKS, len(args) + _SLOPES)
    for place, result in zip(places, results, strict=True):
        if needs[place]:
            found[place] = result
    return tuple(found)


def gradients(
    scores: tuple[Tensor, ...], distance: Tensor, dout: Tensor, o: Tensor, lse: Tensor,
    dlse: Tensor | None, sink: Tensor | None, scale: float, softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv in at least float32, and by row what a sink and a slope get: twice [B, H, M].

    With P = exp(score - lse), dP = dout v^T and delta = rowsum(dout o) - dlse:

        dscore = P (dP - delta)      dv = P^T dout      dsink = -sum_rows exp(sink - lse) delta
        dslope = -sum dscore |p - j|     dq = scale dx k      dk = scale dx^T q
        dx = dscore (1 - tanh(x / softcap)^2), where x = scale q k^T is capped

    (Dao et al., arXiv:2205.14135, appendix B.4, with lse's gradient and the soft cap's chain rule.)
    `scores` is what `scores_of` gives; `lse` may be of size 0, and is then worked out.
    """
    q, k, v, capped, score = scores
    B, M, G, R, _ = q.shape
    wide = q.dtype
    dout = dout.to(wide).reshape(B, M, G, R, v.shape[-1])
    if lse.dim() == 1:
        lse = _log_sum_exp(score, sink)
    else:
        lse = lse.to(wide).reshape(B, G, R, M)
    base = lse.masked_fill(lse == float("-inf"), 0.0)  # a query without keys: all scores are -inf
    weights = (score - base.unsqueeze(-1)).exp()
    delta = (dout * o.to(wide).reshape(dout.shape)).sum(-1).permute(0, 2, 3, 1)
    if dlse is not None:
        delta = delta - dlse.to(wide).reshape(B, G, R, M)
    dscore = weights * (torch.einsum("bmgrd,bngd->bgrmn", dout, v) - delta.unsqueeze(-1))
    dslope = -(dscore * distance[:, None, None].abs()).sum(-1)
    dx = dscore * (1 - (capped / softcap).square()) if softcap else dscore
    dq = torch.einsum("bgrmn,bngd->bmgrd", dx, k) * scale
    dk = torch.einsum("bgrmn,bmgrd->bngd", dx, q) * scale
    dv = torch.einsum("bgrmn,bmgrd->bngd", weights, dout)
    dsink = torch.zeros_like(delta)
    if sink is not None:
        at_sink = sink.to(wide).view(G, R, 1) - base
        dsink = -at_sink.exp() * delta
    return dq.flatten(2, 3), dk, dv, dsink.flatten(1, 2), dslope.flatten(1, 2)


def _log_sum_exp(score: Tensor, sink: Tensor | None) -> Tensor:
    """Of each row, [B, G, R, M]; -inf where there is nothing to sum."""
    if sink is not None:
        B, G, R, M, _ = score.shape
        each = sink.to(score.dtype).view(1, G, R, 1, 1).expand(B, G, R, M, 1)
        score = torch.cat([score, each], -1)
    return score.logsumexp(-1)


def check_grads(
    op: str, dout: Tensor, o: Tensor, lse: Tensor, dlse: Tensor | None,
    alibi_slopes: Tensor | None, need_dslopes: bool, want: Tensor, rows: tuple[int, ...],
) -> None:  # fmt: skip
    """`want` is like out; `rows` is the shape of lse."""
    for name, t in (("dout", dout), ("o", o)):
        if t.shape != want.shape or t.dtype != want.dtype:
            raise ValueError(f"{op}: {name} must be {describe(want)}, got {describe(t)}")
    for name, each in (("lse", lse), ("dlse", dlse)):
        if each is None or (name == "lse" and tuple(each.shape) == (0,)):
            continue
        if tuple(each.shape) != rows or each.dtype != torch.float32:
            raise ValueError(f"{op}: {name} must be float32{list(rows)}, got {describe(each)}")
    if need_dslopes and alibi_slopes is None:
        raise ValueError(f"{op}: need_dslopes asks for the gradient of alibi_slopes, got None")


def empty_grads(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    need_dslopes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    none = q.new_empty(0, dtype=torch.float32)
    return (
        q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape),
        none if sinks is None else sinks.new_empty(sinks.shape),
        alibi_slopes.new_empty(alibi_slopes.shape)
        if need_dslopes and alibi_slopes is not None else torch.empty_like(none),
    )  # fmt: skip


def drawn_grads(
    case: Case, generator: torch.Generator, forward: dict[str, Any], reference: Any, pairs: int,
    rows: tuple[int, ...],
) -> dict[str, Any]:  # fmt: skip
    """The arguments of a backward for those of its forward. `grad`: dout as it comes from a later
    product, with the strides of heads first, or from a sum, one number for all. `lse`: given, or
    none. `dlse`: whether lse has a gradient too. `slopes`: whether theirs is asked for."""
    place = generator.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    given = dict(forward, return_lse=True)
    q, v = given["q"], given["v"]
    shape = (*q.shape[:-1], v.shape[-1])
    if place.type == "cpu" and pairs > _DRAWN:  # to compile for; the formula takes any numbers
        o = (normal(*shape) * 0.1).to(q.dtype)
        lse = normal(*rows) + 6.0
    else:
        o, lse = reference(**given)
    dout = normal(*shape)
    if case.one_of("fill", "normal", "magnitudes", "onehot") == "magnitudes":
        dout *= 2.0 ** torch.randint(-8, 8, (*shape[:-1], 1), generator=generator, device=place)
    dout = dout.to(q.dtype)
    kind = case.one_of("grad", "contiguous", "heads_first", "expanded")
    if kind == "heads_first":
        dout = dout.transpose(-3, -2).contiguous().transpose(-3, -2)
    if kind == "expanded":
        dout = dout.flatten()[:1].expand(shape) if dout.numel() else dout
    if case.one_of("saved", "lse", "none") == "none":
        lse = lse.new_empty(0)
    del given["return_lse"], given["batch_invariant"]
    return {
        **given, "dout": dout, "o": o, "lse": lse,
        "dlse": normal(*rows) if case.get("dlse", False) else None,
        "need_dslopes": case.get("dslopes", False),
    }  # fmt: skip


def cost_of(case: Case, pairs: int, queries: int, keys: int, rows: int, dtype: torch.dtype) -> Cost:
    """Five products of the pairs that are seen; q, k, v, out and dout read, three gradients
    written. `queries` and `keys` count rows of one head each, over all heads."""
    D, Dv = case.D, case.get("Dv", case.D)
    elements = queries * (2 * D + 2 * Dv) + 2 * keys * (D + Dv)
    vectors = 4 * rows * (1 + case.get("dlse", False))
    return Cost(
        2 * case.H * pairs * (3 * D + 2 * Dv),
        elements * dtype.itemsize + vectors,
        "f32" if dtype == torch.float32 else "f16",
    )


def rejects(p: Problem) -> str | None:
    if p.lse.dim() == 1:
        return "it reads lse, which this forward did not save"
    return None
