"""HTML that is escaped unless it was built here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


_VOID = {"meta", "img", "br", "rect", "line", "circle"}


def el(tag: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are no Html are escaped; `cls` is class, `_` in names is `-`, and
    an attribute that is None is left out."""
    pairs = "".join(
        f' {_name(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Html(f"<{tag}{pairs}>" if tag in ("meta", "img", "br") else f"<{tag}{pairs}/>")
    return Html(f"<{tag}{pairs}>{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Html:
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in children))


def _name(key: str) -> str:
    return "class" if key == "cls" else key.replace("_", "-")
