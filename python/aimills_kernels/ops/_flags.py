"""Arguments that are True or False."""

from __future__ import annotations

from typing import Any

from torch import SymBool

from aimills_kernels._words import shown


def check_bools(op: str, **flags: Any) -> None:
    """A ValueError for the first that is no bool; torch would take 2, or None, for one.

    The functions ask for the types first: a call of this is a tenth of what a public function adds
    to an op.
    """
    for name, value in flags.items():
        if not isinstance(value, (bool, SymBool)):
            raise ValueError(f"{op}: {name} must be True or False, got {shown(value)}")
