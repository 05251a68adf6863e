"""Initialisers of variables in .global and .const."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.ptx.errors import Malformed

_ITEM = re.compile(r"\s*(?:([{},])|([^{},\s][^{},]*))")
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_BITS = re.compile(r"0(?:[fF]([0-9a-fA-F]{8})|[dD]([0-9a-fA-F]{16}))")
_REAL = re.compile(r"-?(?:\d+\.\d*|\d+(?=[eE]))(?:[eE][+-]?\d+)?")
_POINTER = re.compile(
    r"(?:generic\s*\(\s*([$A-Za-z_%][\w$]*)\s*\)|([$A-Za-z_%][\w$]*))\s*(?:([+-])\s*(\w+))?"
)


@dataclass(frozen=True)
class Pointer:
    """The address of a variable in .global or .const, plus a number, in the bytes from `at` on."""

    at: int
    name: str
    offset: int


def read(text: str, type_: str, width: int, shape: Sequence[int]) -> tuple[bytes, list[Pointer]]:
    """The bytes of a variable of this shape (empty for one value), and what the launch fills in."""
    items = _items(text)
    tree = _tree(items)
    if next(items, None) is not None:
        raise Malformed(f"can't read the initialiser {text!r}")
    data, pointers = bytearray(), []
    for leaf in _leaves(tree, tuple(shape)):
        if isinstance(leaf, int):
            data += bytes(leaf * width)
            continue
        found = _POINTER.fullmatch(leaf) if width == 8 and type_ != "f64" else None
        if found is not None:
            offset = int(f"{found[3] or ''}{integer(found[4])}") if found[4] else 0
            pointers.append(Pointer(len(data), found[1] or found[2], offset))
        data += bytes(width) if found is not None else _value(leaf, type_, width)
    return bytes(data), pointers


def integer(text: str) -> int:
    """As PTX writes them: a leading 0 is octal."""
    digits = text.rstrip("U")
    if re.fullmatch(r"-?0[0-7]+", digits):
        return int(digits, 8)
    return int(digits, 0)


def _items(text: str) -> Iterator[str]:
    at = 0
    while at < len(text.rstrip()):
        found = _ITEM.match(text, at)
        if found is None:
            raise Malformed(f"can't read the initialiser {text!r}")
        yield (found[1] or found[2]).strip()
        at = found.end()


def _tree(items: Iterator[str]) -> str | list:
    """A value, or the list of what stands between braces."""
    first = next(items, "")
    if first in ("", ",", "}"):
        raise Malformed("a value of an initialiser is missing")
    if first != "{":
        return first
    found = []
    while True:
        found.append(_tree(items))
        end = next(items, "")
        if end == "}":
            return found
        if end != ",":
            raise Malformed("a } of an initialiser is missing")


def _leaves(tree: str | list, shape: tuple[int, ...]) -> Iterator[str | int]:
    """The values from the first to the last; where a list is short, how many zeros follow."""
    if not shape:
        if isinstance(tree, list):
            raise Malformed("an initialiser has more braces than the variable has dimensions")
        yield tree
        return
    if not isinstance(tree, list):
        raise Malformed("an array's initialiser stands in braces")
    if len(tree) > shape[0]:
        raise Malformed(f"{len(tree)} initial values for {shape[0]}")
    for part in tree:
        yield from _leaves(part, shape[1:])
    yield (shape[0] - len(tree)) * math.prod(shape[1:])


def _value(leaf: str, type_: str, width: int) -> bytes:
    if _INTEGER.fullmatch(leaf):
        value = integer(leaf)
        if type_ in ("f32", "f64"):
            return _float(float(value), type_)
        if not -(1 << (8 * width - 1)) <= value < 1 << (8 * width):
            raise Malformed(f"the initial value {leaf} does not fit a {type_}")
        return (value & ((1 << (8 * width)) - 1)).to_bytes(width, "little")
    bits, real = _BITS.fullmatch(leaf), _REAL.fullmatch(leaf)
    if bits is None and real is None:
        raise Malformed(f"can't read the initial value {leaf!r}")
    single = bits is not None and bits[1] is not None
    if bits is not None and type_[0] in "fb" and width == (4 if single else 8):
        return int(bits[1] or bits[2], 16).to_bytes(width, "little")
    if type_ not in ("f32", "f64"):
        raise Malformed(f"the initial value {leaf} does not fit a {type_}")
    if bits is None:
        return _float(float(leaf), type_)
    raw = int(bits[1] or bits[2], 16).to_bytes(4 if single else 8, "little")
    return _float(struct.unpack("<f" if single else "<d", raw)[0], type_)


def _float(value: float, type_: str) -> bytes:
    try:
        return struct.pack("<f" if type_ == "f32" else "<d", value)
    except OverflowError:
        raise Malformed(f"the initial value {value} does not fit a {type_}") from None
