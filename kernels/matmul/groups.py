"""Rows in groups, each multiplied by a weight of its own: checks, the reference, and drawn lengths.

Rows [T, K] lie group behind group and `offsets` says where each group ends; or every group has M
rows, [E, M, K], of which the first `masked_m` are its own. A row of no group gives zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Invalid, describe
from aimills_kernels.kernels.matmul.cases import end_of, spoil, vary, width
from aimills_kernels.kernels.matmul.formats import WIDE


def check_groups(
    op: str, name: str, x: Tensor, offsets: Tensor | None, masked_m: Tensor | None, E: int
) -> tuple[int, ...]:
    """The dims of x, which goes by `name`, but its last one."""
    if (offsets is None) == (masked_m is None):
        given = "neither" if offsets is None else "both"
        raise ValueError(f"{op}: one of offsets and masked_m must be given, got {given}")
    if offsets is not None:
        if x.dim() != 2:
            raise ValueError(f"{op}: {name} must be [T, K] with offsets, got {describe(x)}")
        if offsets.dtype != torch.int32 or tuple(offsets.shape) not in ((E,), (E + 1,)):
            raise ValueError(
                f"{op}: offsets must be int32 [{E}] or [{E + 1}], got {describe(offsets)}"
            )
    if masked_m is not None:
        if x.dim() != 3 or x.shape[0] != E:
            raise ValueError(f"{op}: {name} must be [{E}, M, K] with masked_m, got {describe(x)}")
        if masked_m.dtype != torch.int32 or tuple(masked_m.shape) != (E,):
            raise ValueError(f"{op}: masked_m must be int32 [{E}], got {describe(masked_m)}")
    return tuple(x.shape[:-1])


def check_lengths(
    op: str, x: Tensor, offsets: Tensor | None, masked_m: Tensor | None, E: int
) -> None:
    """Values."""
    if offsets is not None and offsets.numel():
        listed, rows = offsets.tolist(), x.shape[0]
        starts = listed[0] == 0 if len(listed) > E else listed[0] >= 0
        if not starts or listed != sorted(listed) or listed[-1] > rows:
            raise ValueError(
                f"{op}: offsets must rise from 0 to at most {rows}, the rows there are, and never "
                f"fall, got {_few(listed)}"
            )
    if masked_m is not None and masked_m.numel():
        listed, rows = masked_m.tolist(), x.shape[1]
        if min(listed) < 0 or max(listed) > rows:
            raise ValueError(
                f"{op}: masked_m must be 0 to {rows}, the rows of a group, got {_few(listed)}"
            )


def _few(listed: list[int]) -> str:
    return f"[{', '.join(map(str, listed[:8]))}{', ...' if len(listed) > 8 else ''}]"


def own_rows(x: Tensor, offsets: Tensor | None, masked_m: Tensor | None, E: int) -> Tensor:
    """Which rows of x are each group's: [E, T] or [E, M], bool; the host reads no length.

    Of unchecked offsets that fall, a group is empty and later ones begin where the one before ends;
    none passes the rows.
    """
    row = torch.arange(x.shape[-2], dtype=torch.int32, device=x.device)
    if masked_m is not None:
        return row < masked_m[:, None]
    assert offsets is not None
    ends = offsets[len(offsets) - E :].clamp(0, len(row))
    sizes = torch.cat([ends[:1], ends.diff().clamp(min=0)])
    ends = sizes.cumsum(0).clamp(max=len(row)).to(torch.int32)
    group = torch.searchsorted(ends, row, right=True)
    return group == torch.arange(E, device=x.device)[:, None]


def by_group(
    multiply: Callable[[Tensor, int, Tensor], Tensor], x: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, E: int, empty: Tensor,
) -> Tensor:  # fmt: skip
    """`multiply(rows, e, mine)` for each group, and zeros for the rows of none. `mine` [rows, 1] is
    true for those that count; all rows are multiplied, as only the GPU knows the lengths."""
    mine = own_rows(x, offsets, masked_m, E)[..., None]
    if masked_m is not None:
        found = [torch.where(m, multiply(x[e], e, m), 0) for e, m in enumerate(mine)]
        return torch.stack(found) if found else empty
    out = empty.zero_()
    for e, m in enumerate(mine):
        out = torch.where(m, multiply(x, e, m), out)
    return out


def in_some(x: Tensor, offsets: Tensor | None, masked_m: Tensor | None, E: int) -> Tensor:
    """Which rows of x are some group's: [T] or [E, M], bool."""
    own = own_rows(x, offsets, masked_m, E)
    return own if masked_m is not None else own.any(0)


def with_residual(
    out: Tensor, residual: Tensor | None, x: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, E: int,
) -> Tensor:  # fmt: skip
    """out + residual in the rows of groups, in the dtype of out; the others stay 0."""
    if residual is None:
        return out
    own = in_some(x, offsets, masked_m, E)[..., None]
    return out + torch.where(own, residual.to(out.dtype), 0)


def of_group(t: Tensor | None, e: int, dim: int) -> Tensor | None:
    """What belongs to group `e` of a tensor that has the groups first where it has `dim` dims."""
    return t[e] if t is not None and t.dim() == dim else t


# ---- cases


def rows_in(case: Case) -> tuple[int, ...]:
    """The dims of x but its last: `counts` rows by group and `tail` of none, or `M` of each."""
    if case.get("masked", False):
        return len(case.counts), case.M
    return (sum(case.counts) + case.get("tail", 0),)


def lengths(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """offsets, with a 0 in front where the case says `lead`, or masked_m: `counts` in any order, so
    that two draws differ where a CUDA graph would be the same."""
    place, E = generator.device, len(case.counts)
    order = torch.randn(E, generator=generator, device=place).argsort()
    counts = torch.tensor(case.counts, dtype=torch.int32, device=place)[order]
    if case.get("masked", False):
        return {"offsets": None, "masked_m": counts}
    ends = counts.cumsum(0).to(torch.int32)
    if case.get("lead", False):
        ends = torch.cat([ends.new_zeros(1), ends])
    return {"offsets": ends, "masked_m": None}


def unowned(case: Case, given: dict[str, Any]) -> Tensor:
    """Which rows belong to no group."""
    place = next(t.device for t in given.values() if t is not None)
    row = torch.arange(rows_in(case)[-1], device=place)
    if given["masked_m"] is not None:
        return row >= given["masked_m"][:, None]
    return row >= sum(case.counts)


def end_of_groups(case: Case, generator: torch.Generator, given: dict[str, Any]) -> dict[str, Any]:
    """`end_of` the rows of the case; in the residual those of no group are NaN."""
    drawn = end_of(case, generator, rows_in(case))
    if drawn["residual"] is not None:
        drawn["residual"].masked_fill_(unowned(case, given)[..., None], float("nan"))
    return drawn


def end_bytes_of_groups(case: Case, out: torch.dtype) -> int:
    """Of the output, which is written for all rows, and of the residual of those that count."""
    residual = WIDE[case.residual].itemsize if case.get("residual") else 0
    rows = math.prod(rows_in(case))
    return width(case) * (rows * out.itemsize + sum(case.counts) * residual)


def skewed(groups: int, rows: int) -> tuple[int, ...]:
    """Rows by group as a router leaves them: the first has most, the last few or none."""
    weights = [1 / (1 + g) for g in range(groups)]
    counts = [int(rows * w / sum(weights)) for w in weights]
    counts[0] += rows - sum(counts)
    return tuple(counts)


def bad_groups(x: str, tiny: str = "tiny", masked: str = "masked") -> tuple[Invalid, ...]:
    """`tiny` has offsets [E], `masked` has masked_m."""

    def given(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict], dict]:
        return vary(**{name: lambda a: change(a[name])})

    offsets: Iterable[tuple[str, Any, str]] = (
        ("are int64", lambda t: t.long(), r"int32 \["),
        ("are too few", lambda t: t[:-1], r"int32 \["),
    )
    rise = "offsets must rise from 0 to at most"
    return (
        Invalid("no lengths", vary(offsets=None), "one of offsets and masked_m must be given"),
        Invalid("both lengths", vary(masked_m=lambda a: a["offsets"]), "got both"),
        Invalid(f"{x} has three dims", given(x, lambda t: t[None]), rf"{x} must be \[T, K\]"),
        Invalid(f"{x} has two dims", given(x, lambda t: t[0]), rf"{x} must be \[.*, M, K\]",
                base=masked),
        *(Invalid(f"offsets {what}", given("offsets", change), f"offsets must be {says}")
          for what, change, says in offsets),
        *(Invalid(f"masked_m {what}", given("masked_m", change), f"masked_m must be {says}",
                  base=masked) for what, change, says in offsets),
        Invalid("offsets pass the rows", spoil("offsets", 10**6), rise, value=True),
        Invalid("offsets fall", given("offsets", lambda t: t.flip(0)), rise, value=True),
        Invalid("offsets are negative", given("offsets", lambda t: t - 100), rise, value=True),
        Invalid("offsets do not begin with 0", given("offsets", lambda t: t.clamp(min=1)), rise,
                base="lead", value=True),
        Invalid("masked_m passes the rows", spoil("masked_m", 10**6), "masked_m must be 0 to",
                base=masked, value=True),
        Invalid("masked_m is negative", spoil("masked_m", -1), "masked_m must be 0 to",
                base=masked, value=True),
    )  # fmt: skip
