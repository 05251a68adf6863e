"""What the tiles of each op of fp8 matmul follow from: once for the launch, the workspace and the
candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.activations import GATED
from aimills_kernels.kernels.matmul.config import (
    EACH,
    Config,
    Shape,
    codes_candidates,
    grouped_candidates,
    in_blocks,
    rows_aligned,
    rows_in_each,
    select_codes_config,
    select_grouped_config,
    several_scales,
)


@dataclass(frozen=True)
class Chosen:
    shape: Shape
    blocks: bool  # scales are of blocks
    sm: int
    columns: int = 0  # so wide a tile must be; 0: any width
    grouped: bool = False

    def config(self) -> Config:
        """The built-in one."""
        if self.grouped:
            return select_grouped_config(self.shape, self.blocks, self.sm, self.columns)
        return select_codes_config(self.shape, self.blocks, self.columns, self.sm)

    def candidates(self) -> tuple[Config, ...]:
        """The built-in one first."""
        if self.grouped:
            return grouped_candidates(self.shape, self.blocks, self.sm, self.columns)
        return codes_candidates(self.shape, self.blocks, self.columns, self.sm)


def for_rows(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype, accum: str,
    batch_invariant: bool, activation: str, sm: int | None = None,
) -> Chosen:  # fmt: skip
    sm = sm or sm_of(a.device) or 90
    several = several_scales(scale_a, scale_b, len(b), activation == GATED)
    shape = Shape.of(a, b, out_dtype, accum, batch_invariant, sm, several=several)
    return Chosen(shape, in_blocks(scale_a, scale_b, len(b)), sm)


def for_codes(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, accum: str, batch_invariant: bool,
    activation: str, granularity: str, sm: int | None = None,
) -> Chosen:  # fmt: skip
    """Without `columns` the result goes to the workspace first: no tile sees all of a row, and on
    sm_100 one of 128 columns with a scale and an unaligned address for each spilled 64 bytes."""
    found = for_rows(a, b, scale_a, scale_b, torch.bfloat16, accum, batch_invariant, activation, sm)
    spills = found.shape.several == EACH and found.sm // 10 == 10 and len(b) % 16 > 0
    whole = granularity == "1x128" and not spills
    return replace(found, columns=_block(activation) if whole else 0)


def for_groups(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype,
    batch_invariant: bool, activation: str, sm: int | None = None, columns: int = 0,
) -> Chosen:  # fmt: skip
    sm, N = sm or sm_of(a.device) or 90, b.shape[1]
    several = several_scales(scale_a, scale_b, N, activation == GATED, (columns or 128) // 2)
    rows = rows_in_each(a, len(b))
    shape = Shape.of(a, b, out_dtype, "promoted", batch_invariant, sm, rows, several)
    return Chosen(shape, in_blocks(scale_a, scale_b, N), sm, columns, grouped=True)


def for_codes_of_groups(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, batch_invariant: bool, activation: str,
    granularity: str, sm: int | None = None,
) -> Chosen:  # fmt: skip
    """As `for_codes`; a tile of 256 columns that are read byte by byte spilled 104 bytes too, and
    one with a scale for each column 208 on sm_100 and 32 on sm_80."""
    given = (a, b, scale_a, scale_b, torch.bfloat16, batch_invariant, activation, sm)
    aligned = rows_aligned(b) and (batch_invariant or rows_aligned(a))
    if granularity == "1x128" and aligned:
        found = for_groups(*given, columns=_block(activation))
        if found.shape.several != EACH or not (found.sm // 10 == 10 or found.sm < 89):
            return found
    return for_groups(*given)


def _block(activation: str) -> int:
    """Columns of a tile that is a block of 128 of the output."""
    return 256 if activation == GATED else 128
