"""Other libraries' ways to do our ops, as `bench/peers/` declares them: one file a library."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aimills_kernels._op import Op
from aimills_kernels.harness.env import ROOT


@dataclass(frozen=True)
class Adapter:
    """One library: `ops` is a dict from an op's name to a function of its flat arguments, which
    returns the outputs and raises for what the library can't express. `needs` is a dict from each
    module that must be importable to the package that has it."""

    name: str
    ops: Mapping[str, Callable[..., Any]]
    needs: Mapping[str, str] = field(default_factory=dict)

    def absent(self) -> str | None:
        """Why it can't be used here, without importing it."""
        for module, package in self.needs.items():
            if module not in sys.modules and importlib.util.find_spec(module) is None:
                return f"{package} is not installed"
        return None


class Prepared:
    """A function of an op's flat arguments in two steps: `ahead` makes tensors of them, such as a
    weight in the library's own packing, outside of the time; `call(made, *args)` is timed."""

    def __init__(self, ahead: Callable[..., tuple[Any, ...]], call: Callable[..., Any]):
        self.ahead, self.call, self.__doc__ = ahead, call, call.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.call(self.ahead(*args), *args)


@dataclass(frozen=True)
class Peer:
    """A function to time beside our providers. One that is `gated` is the kernel under test: it
    gets no time where it is wrong."""

    name: str
    function: Callable[..., Any]
    absent: str | None = None
    gated: bool = False


def peers_of(op: Op, folder: Path | None = None) -> list[Peer]:
    """What `bench/peers` has for an op; nothing where there is no such folder, as in a wheel."""
    path = (folder or ROOT / "bench") / "peers" / "__init__.py"
    if not path.is_file():
        return []
    return [
        Peer(adapter.name, adapter.ops[op.name], adapter.absent())
        for adapter in _adapters(path)
        if op.name in adapter.ops
    ]


@cache
def _adapters(path: Path) -> tuple[Adapter, ...]:
    """`ADAPTERS` of a package that is on no path."""
    name = f"aimills_bench_peers_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return tuple(module.ADAPTERS)
