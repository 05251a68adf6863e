"""Faults planted in the text of kernels that are right."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.ptx.errors import Fault


@dataclass(frozen=True)
class Planted:
    """What to look for in PTX and what to put there; which of the places, None for all. The
    executor then stops with `error`, saying `said`; or else, for None, the results are wrong."""

    name: str
    look_for: str
    instead: str
    which: int | None
    error: type[Fault] | None
    said: str = "wrong values"

    def edit(self, text: str) -> str:
        found = list(re.finditer(self.look_for, text))
        if not found:
            raise ValueError(f"{self.name}: nothing to change")
        some = found if self.which is None else [found[self.which]]
        for match in reversed(some):
            text = text[: match.start()] + match.expand(self.instead) + text[match.end() :]
        return text


def op(opcode: str) -> str:
    """The pattern of a whole instruction, with its guard."""
    return rf"(?:@!?%?\w+\s+)?\b{opcode}\b[^;]*;"
