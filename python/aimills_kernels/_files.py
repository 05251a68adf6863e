"""Files written whole or not at all. Needs no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """The same for several files: each is on the disk before the first takes its place, so a full
    disk leaves all of them as they were."""
    ready: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
            ready[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
        for path, made in ready.items():
            made.replace(path)
    except BaseException:
        for made in ready.values():
            made.unlink(missing_ok=True)
        raise
