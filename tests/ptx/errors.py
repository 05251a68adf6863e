"""What the executor says when it stops. A message ends with the line of PTX it is about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.ptx.parse import Instr


@dataclass(frozen=True)
class Line:
    """A line of PTX that is no instruction: a parameter's, a kernel's."""

    line: int
    text: str


class PtxError(Exception):
    """The kernel, or its launch, is wrong; or the executor can't run it."""

    def __init__(self, text: str, instr: Instr | Line | None = None):
        where = f" [line {instr.line}: {instr.text}]" if instr is not None else ""
        super().__init__(text + where)
        self.instr = instr


@contextlib.contextmanager
def about(place: Line | None) -> Iterator[None]:
    """What fails inside and names no line is about this one."""
    try:
        yield
    except PtxError as error:
        if error.instr is not None or place is None:
            raise
        raise type(error)(str(error), place) from None


class Malformed(PtxError):
    """The text is not PTX that this parser reads."""


class Unknown(PtxError):
    """An instruction, or a variant of one, that the executor does not know."""


class BadLaunch(PtxError):
    """Arguments, grid or shared memory do not fit the kernel."""


class Broken(PtxError):
    """The executor itself failed: a defect of it, and not of the kernel."""


# What Python raises where the executor's own code is wrong.
DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError,
           ValueError, RuntimeError)  # fmt: skip


def broken(error: Exception, instr: Instr) -> Broken:
    text = f"the executor itself failed here ({type(error).__name__}: {error})"
    return Broken(" ".join(text.split()), instr)


class Fault(PtxError):
    """The kernel did what no kernel may: see the subclasses."""


class OutOfBounds(Fault):
    """An access outside of every tensor, or of shared memory."""


class Misaligned(Fault):
    """An address that is no multiple of the access's size."""


class Uninitialised(Fault):
    """A read of a register or of shared memory that nothing wrote."""


class Race(Fault):
    """Two accesses of shared memory, one a write, that nothing orders."""


class MissingFence(Fault):
    """A proxy fence or a wgmma.fence that is needed and is not there."""


class Deadlock(Fault):
    """Nobody can go on."""


class TooLong(PtxError):
    """The launch did not end within its budget of instructions."""
