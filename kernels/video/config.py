"""How the Triton kernel cuts a frame."""

from __future__ import annotations

from aimills_kernels.kernels.video.problem import Arguments

# Positions of a program's tile, and source samples of a block: the tensor core's least and more.
TILE = dict(OUT_ROWS=16, OUT_COLS=32, ROWS=16, COLS=32)
NUM_WARPS = 4
# As many as there are. Left alone, ptxas spills a few to fit a third block on an SM.
REGISTERS = 255
MOST_PROGRAMS = 2**31 - 1


def tiles(a: Arguments) -> tuple[int, int]:
    """Along the resized picture's rows and columns, padding among them."""
    down, across = a.canvas[::-1] if a.rotate % 180 else a.canvas
    return -(-down // TILE["OUT_ROWS"]), -(-across // TILE["OUT_COLS"])


def programs(a: Arguments) -> int:
    down, across = tiles(a)
    return a.form.size(a.planes)[0] * down * across
