"""Triton's cache with a folder of kernels that were compiled ahead.

    TRITON_CACHE_MANAGER=aimills_kernels.precompiled:Cache AIMILLS_PRECOMPILED=<folder>

What `aimills-kernels precompile --out <folder>` left there is read, wherever the folder is mounted
and though it can't be written to; what it lacks goes through Triton's own cache, as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from triton.runtime.cache import FileCacheManager

VARIABLE = "AIMILLS_PRECOMPILED"


class Cache(FileCacheManager):
    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        base = os.environ.get(VARIABLE)
        own = override or dump or not base
        self._made = None if own else Path(str(base), key)
        # Triton makes its folder before it looks for anything; a hit here needs none.
        with contextlib.nullcontext() if own else contextlib.suppress(OSError):
            super().__init__(key, override, dump)

    def get_file(self, filename: str) -> str | None:
        if self._made and (self._made / filename).exists():
            return str(self._made / filename)
        return super().get_file(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Triton notes a group by absolute paths; here they are where the folder is now."""
        if self._made is None or not (self._made / f"__grp__{filename}").exists():
            return super().get_group(filename)
        noted = json.loads((self._made / f"__grp__{filename}").read_text())["child_paths"]
        return {name: str(self._made / name) for name in noted if (self._made / name).exists()}
