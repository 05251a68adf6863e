"""FP8 with its own quant_method: one scale, one for each row, or DeepSeek's blocks.

    weight            e4m3 [N, K] (e5m2 where the config's fmt says so)
    weight_scale_inv  [ceil(N / rows), ceil(K / columns)] with weight_block_size [rows, columns]
    weight_scale      [], [1] or [N, 1] without

Both names hold what a code is multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels.checkpoints._bits import groups_of
from aimills_kernels.checkpoints._config import Config
from aimills_kernels.checkpoints._files import Part
from aimills_kernels.checkpoints._quantized import Quantized

_DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Fp8:
    """Layers of one FP8 checkpoint."""

    block: tuple[int, int] | None
    dtype: torch.dtype
    words = frozenset({"weight_scale", "weight_scale_inv"})

    @property
    def title(self) -> str:
        kind = describe(self.dtype)
        if self.block is None:
            return f"FP8, {kind}, one scale a tensor or row"
        return f"FP8, {kind}, blocks of {self.block[0]} x {self.block[1]}"

    def read(self, part: Part) -> Quantized | None:
        there = [word for word in sorted(self.words) if word in part]
        if not there:
            if "weight" not in part or part.read("weight").dtype.itemsize > 1:
                return None
            there = ["weight_scale_inv" if self.block else "weight_scale"]
        if len(there) == 2:
            raise part.error(there[1], f"is there, and {there[0]} too; expected one of them")
        codes = fp8_codes(part, self.dtype)
        if self.block is not None:
            return Quantized("fp8", codes, blocks(part, there[0], codes, self.block), None,
                             block=self.block)  # fmt: skip
        return one_or_rows(part, there[0], codes)


def fp8_codes(part: Part, dtype: torch.dtype) -> Tensor:
    """[N, K], none of them NaN or infinite: no writer makes such a code, a damaged file does."""
    codes = part.matrix("weight", dtype)
    # The codes below these magnitudes are finite, by their bits.
    beyond = 0x7F if dtype == torch.float8_e4m3fn else 0x7C
    count = int(((codes.view(torch.uint8) & 0x7F) >= beyond).sum())
    if count:
        raise part.error(
            "weight", f"holds NaN or infinity in {count} of {codes.numel()} places, expected none"
        )
    return codes


def blocks(part: Part, word: str, codes: Tensor, block: tuple[int, int]) -> Tensor:
    (N, K), (rows, columns) = codes.shape, block
    shape = (groups_of(N, rows), groups_of(K, columns))
    why = f"blocks of {rows} x {columns} of [{N}, {K}]"
    return part.scales(word, shape, why=why, fp8=True)


def one_or_rows(part: Part, word: str, codes: Tensor) -> Quantized:
    """By the shape of the scales."""
    N, K = codes.shape
    scales = part.scales(
        word, (), (1,), (1, 1), (N,), (N, 1), why="one scale, or one for each row", fp8=True
    )
    if scales.numel() == 1:
        return Quantized("fp8", codes, scales.reshape(()))
    return Quantized("fp8", codes, scales.reshape(N, 1), block=(1, K))


def parse(config: Config) -> Fp8:
    fmt = config.one_of("fmt", _DTYPES, "e4m3")
    return Fp8(config.pair("weight_block_size"), _DTYPES[fmt])
