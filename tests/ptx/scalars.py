"""Numbers and structs of a launch as the bytes of its kernel's parameters."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tests.ptx.errors import BadLaunch
from tests.ptx.num import f32_to_bf16
from tests.ptx.parse import WIDTH, Variable

POINTERS = ("u64", "s64", "b64")
_FLOATS = {"f16": "<e", "f32": "<f", "f64": "<d", "b32": "<f", "b64": "<d"}


def pack(param: Variable, arg: Any) -> bytes:
    """The parameter's bytes. A number has to fit its type; bits take whole numbers and floats."""
    if isinstance(arg, (bytes, bytearray)):
        if len(arg) != param.size:
            raise BadLaunch(f"{param.name} has {param.size} bytes, got {len(arg)}", param.place)
        return bytes(arg)
    if param.array:
        raise _cannot(param, arg, f"it is a struct of {param.size} bytes")
    if arg is None:
        if param.type not in POINTERS:
            raise _cannot(param, arg, f"it is a {param.type}")
        return bytes(param.size)
    if isinstance(arg, (bool, np.bool_, int, np.integer)):
        return _integer(param, int(arg))
    if isinstance(arg, (float, np.floating)):
        return _float(param, float(arg))
    raise _cannot(param, arg, f"it is a {param.type}")


def _cannot(param: Variable, arg: Any, why: str) -> BadLaunch:
    what = "None" if arg is None else f"a {type(arg).__name__}"
    return BadLaunch(f"{param.name}: can't pass {what}, {why}", param.place)


def _misfit(param: Variable, arg: Any) -> BadLaunch:
    return BadLaunch(f"{param.name}: {arg} does not fit a {param.type}", param.place)


def _integer(param: Variable, value: int) -> bytes:
    if param.type[0] not in "usb" or param.type == "bf16":
        return _float(param, value)
    bits = 8 * WIDTH[param.type]
    # The compilers call a signed argument u32 too.
    most = 1 << (bits - 1 if param.type[0] == "s" else bits)
    if not -(1 << (bits - 1)) <= value < most:
        raise _misfit(param, value)
    return (value & ((1 << bits) - 1)).to_bytes(param.size, "little")


def _float(param: Variable, value: float) -> bytes:
    if param.type == "bf16":
        return int(f32_to_bf16(np.array([value], np.float32))[0]).to_bytes(2, "little")
    form = _FLOATS.get(param.type)
    if form is None:
        raise _cannot(param, value, f"it is a {param.type}")
    try:
        return struct.pack(form, value)
    except OverflowError:
        raise _misfit(param, value) from None
