"""How messages show a value that was given, and name what was meant by a misspelt word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST = 80


def shown(value: Any) -> str:
    """`repr` on one line, cut short."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of over 4300 digits has none
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def near(name: Any, known: Iterable[str], listing: str = "aimills-kernels ops") -> str:
    """The known names that look like `name`, and the command that lists all of them."""
    close = difflib.get_close_matches(name, sorted(set(known)), 5) if isinstance(name, str) else []
    meant = f"close to it: {', '.join(close)}; " if close else ""
    return f"{meant}`{listing}` lists all"
