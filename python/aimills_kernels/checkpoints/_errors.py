"""The one error of this package."""

from __future__ import annotations

from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint that can't be read as it says it is; the text is `<file>: <key> ...`: what was
    found there and what is expected."""

    def __init__(self, file: Path, key: str, sentence: str):
        self.file, self.key = file, key
        super().__init__(f"{file}: {key} {sentence}" if key else f"{file}: {sentence}")
