"""A part of a page that a command writes, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aimills_kernels._files import write_whole


@dataclass(frozen=True)
class Part:
    page: Path
    name: str

    def read(self) -> str:
        found = self._found(self.page.read_text())
        return found[0]

    def write(self, text: str) -> None:
        page = self.page.read_text()
        found = self._found(page)
        write_whole(self.page, page[: found.start()] + text + page[found.end() :])

    def _found(self, text: str) -> re.Match[str]:
        begin, end = (f"<!-- {self.name}:{side} -->" for side in ("begin", "end"))
        found = re.search(rf"(?<={begin}\n).*?(?={end})", text, re.S)
        if found is None:
            raise ValueError(
                f"{self.page}: has no part between `{self.name}:begin` and `{self.name}:end`"
            )
        return found

    def add_option(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--update", action="store_true", help=f"write it into {self.page.name}")

    def give(self, update: bool, lines: Callable[[], Iterable[str]]) -> None:
        """Prints the lines, or writes them; a page without the part is told before they are made,
        which may take minutes."""
        if update:
            try:
                self.read()
            except ValueError as error:
                raise SystemExit(str(error)) from None
        made = "\n".join(lines()) + "\n"
        if update:
            self.write(made)
        else:
            print(made)
