"""Instructions in which lanes of a warp see each other."""

from __future__ import annotations

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.ops import handles
from tests.ptx.parse import Instr, Pair

_LANE = np.arange(32, dtype=np.int64)


def members(b: Binder, mask, s: Active) -> None:
    """Every lane that a membermask names has to be here."""
    named = (
        np.asarray(mask, np.uint32)[..., None] if np.ndim(mask) else np.uint32(mask)
    ) >> _LANE.astype(np.uint32) & 1
    named = np.broadcast_to(
        named.astype(bool) if named.ndim < 3 else named[:, 0].astype(bool), s.mask.shape
    )
    alive = b.m.alive[s.sl]
    missing = named & alive & ~s.mask & s.mask.any(axis=1)[:, None]
    if missing.any():
        warp, lane = (int(v[0]) for v in np.nonzero(missing))
        raise fault(
            Fault, b.m, "a .sync whose mask names a lane that is not here", warp + s.lo, lane
        )


@handles("shfl")
def _shfl(i: Instr, b: Binder) -> Handler:
    if i.parts[1] != "sync" or i.parts[3] != "b32":
        raise b.unknown()
    how = i.parts[2]
    target = i.args[0]
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    put = b.dst(first, "b32")
    inside = b.dst(second, "pred") if second is not None else None
    value, by, clamp, mask = (b.src(a, "u32") for a in i.args[1:5])

    def run(s: Active) -> None:
        members(b, mask(s), s)
        x = np.broadcast_to(value(s), s.mask.shape)
        step, c = (np.asarray(v(s)).astype(np.int64) for v in (by, clamp))
        bound, segment = c & 31, (c >> 8) & 31
        top = (_LANE & segment) | (bound & ~segment)
        bottom = _LANE & segment
        if how == "up":
            source = _LANE - (step & 31)
            valid = source >= top
        elif how == "down":
            source = _LANE + (step & 31)
            valid = source <= top
        elif how == "bfly":
            source = _LANE ^ (step & 31)
            valid = source <= top
        else:
            source = bottom | (step & 31 & ~segment)
            valid = source <= top
        source = np.broadcast_to(np.where(valid, source, _LANE), s.mask.shape)
        put(s, np.take_along_axis(x, source, axis=1))
        if inside is not None:
            inside(s, np.broadcast_to(valid, s.mask.shape))

    return run
