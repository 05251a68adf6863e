"""`quantization_config` with its file and key in every complaint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aimills_kernels._words import shown
from aimills_kernels.checkpoints._errors import CheckpointError


class Config:
    """A JSON object and where it comes from."""

    def __init__(self, file: Path, key: str, values: Any):
        self.file, self.key = file, key
        if not isinstance(values, Mapping):
            raise CheckpointError(file, key, f"is {shown(values)}, expected a JSON object")
        self.values = values

    def error(self, name: str, sentence: str) -> CheckpointError:
        return CheckpointError(self.file, f"{self.key}.{name}", sentence)

    def get(self, name: str, default: Any = None) -> Any:
        """Null is as good as absent."""
        found = self.values.get(name)
        return default if found is None else found

    def inner(self, name: str) -> Config:
        return Config(self.file, f"{self.key}.{name}", self.values.get(name))

    def one_of(self, name: str, known: Iterable[Any], default: Any = None) -> Any:
        known, found = tuple(known), self.get(name, default)
        if not any(found == k and type(found) is type(k) for k in known):
            wanted = ", ".join(map(shown, known))
            raise self.error(name, f"is {shown(found)}, expected one of {wanted}")
        return found

    def group_size(self, name: str, default: Any = None) -> int:
        """From 1 on, or -1: a whole row."""
        found = self.get(name, default)
        if type(found) is not int or (found < 1 and found != -1):
            raise self.error(name, f"is {shown(found)}, expected a group size from 1 on, or -1")
        return found

    def pair(self, name: str) -> tuple[int, int] | None:
        found = self.get(name)
        if found is None:
            return None
        ok = isinstance(found, list) and len(found) == 2
        if not ok or any(type(n) is not int or n < 1 for n in found):
            raise self.error(name, f"is {shown(found)}, expected rows and columns, as [128, 128]")
        return found[0], found[1]
