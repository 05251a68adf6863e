"""One weight as a checkpoint holds it, in the same layout whatever the checkpoint's format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIDDLE = 8  # the zero of symmetric 4-bit codes


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight [N, K], as in `nn.Linear`; of `plain` ones any shape.

    format   codes                 value                                  scales
    "w4"     u8 [N, K], 0 to 15    (code - zero) * scale                  [G, N]
    "int8"   i8 [N, K]             (code - zero) * scale                  [G, N]
    "fp8"    e4m3 | e5m2 [N, K]    code * scale                           see `block`
    "plain"  as stored             code                                   None

    scales     f16 | bf16 | f32, as stored; fp8: f32. None is 0, NaN or infinite
    zeros      w4: u8 [G, N], 0 to 15; int8: i16 [G, N]; None: 8 and 0 throughout
    g_idx      i32 [K]: the group of each column; None: column k is of group k // group_size
    group_size columns that share a scale, K for one group; 0 where format is fp8 or plain
    block      fp8: rows and columns that share a scale, scales [ceil(N / rows), ceil(K / columns)];
               None: one scale, []
    bias       [N], as stored, or None

    Codes of "int8", "fp8" and "plain" may lie in the mapped file; writing to them changes no file.
    """

    format: str
    codes: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None
    g_idx: Tensor | None = None
    group_size: int = 0
    block: tuple[int, int] | None = None
    bias: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def scheme(self) -> str:
        """In short: "w4-g128", "w4-channel-asym", "int8-channel", "fp8-block128x128", "fp8-row",
        "fp8-tensor", "plain"."""
        if self.format == "plain":
            return "plain"
        if self.format == "fp8":
            if self.block is None:
                return "fp8-tensor"
            rows, columns = self.block
            whole = rows == 1 and columns == self.shape[1]
            return "fp8-row" if whole else f"fp8-block{rows}x{columns}"
        groups = "channel" if self.group_size == self.shape[1] else f"g{self.group_size}"
        return f"{self.format}-{groups}{'' if self.zeros is None else '-asym'}"

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight, computed in float32 (float64 for float64) and rounded to `dtype`."""
        if self.scales is None:
            return self.codes.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        values, scales = self.codes.to(wide), self.scales.to(wide)
        if self.format == "fp8":
            return (values * self._spread(scales)).to(dtype)
        of_column = self._groups()
        if self.zeros is not None:
            values -= self.zeros.to(wide).T.index_select(1, of_column)
        elif self.format == "w4":
            values -= MIDDLE
        return (values * scales.T.index_select(1, of_column)).to(dtype)

    def _groups(self) -> Tensor:
        if self.g_idx is not None:
            return self.g_idx.to(torch.int64)
        columns = torch.arange(self.shape[1], device=self.codes.device)
        return columns // max(self.group_size, 1)

    def _spread(self, scales: Tensor) -> Tensor:
        """Scales of blocks to one for each element, or what broadcasts to that."""
        if self.block is None:
            return scales
        rows, columns = self.block
        N, K = self.shape
        scales = scales.repeat_interleave(rows, 0)[:N]
        return scales if scales.shape[1] == 1 else scales.repeat_interleave(columns, 1)[:, :K]
