"""What the user named: ops, cases, providers, devices. A wrong name is a UsageError."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from aimills_kernels import _dispatch, _registry
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._words import near
from aimills_kernels.cli._errors import UsageError

_PCI = Path("/sys/bus/pci/devices")


def ops(names: Sequence[str] = ()) -> tuple[Op, ...]:
    """Those that these ops and families name, or all; AIMILLS_PROVIDER is looked at too, before any
    work."""
    try:
        chosen = _registry.ops_named(names) or _registry.OPS
        for op in chosen:
            _dispatch.forced_provider(op.name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return chosen


def cases(chosen: Sequence[Op], names: Sequence[str] | None) -> dict[str, tuple[Case, ...]]:
    """By op. A name must belong to at least one of the ops."""
    if names is None:
        return {op.name: op.cases for op in chosen}
    _known("case", names, {c.name for op in chosen for c in op.cases}, chosen)
    return {op.name: tuple(c for c in op.cases if c.name in names) for op in chosen}


def providers(chosen: Sequence[Op], names: Sequence[str] | None) -> dict[str, tuple[Provider, ...]]:
    if names is None:
        return {op.name: op.all_providers for op in chosen}
    _known("provider", names, {p.name for op in chosen for p in op.all_providers}, chosen)
    return {op.name: tuple(p for p in op.all_providers if p.name in names) for op in chosen}


def _known(kind: str, names: Sequence[str], known: set[str], chosen: Sequence[Op]) -> None:
    for name in names:
        if name not in known:
            of = ", ".join(op.name for op in chosen)
            raise UsageError(f"unknown {kind} {name!r} of {of}; {near(name, known)}")


def devices(text: str) -> tuple[torch.device, ...]:
    """The devices that `--device` means: auto is every GPU, and the CPU where there is none."""
    if text == "cpu":
        return (torch.device("cpu"),)
    if text == "auto" and not torch.cuda.is_available():
        if found := gpus_on_the_bus():
            raise UsageError(
                f"this machine has {found} NVIDIA GPU{'s' * (found > 1)}, but {no_cuda()}; "
                "`--device cpu` checks the CPU alone"
            )
        return (torch.device("cpu"),)
    if reason := no_cuda():
        raise UsageError(f"--device {text} can't be used: {reason}")
    count = torch.cuda.device_count()
    index = text.partition(":")[2]
    if not index:
        return tuple(torch.device("cuda", i) for i in range(count))
    if int(index) >= count:
        raise UsageError(
            f"there is no device {text!r}; the GPUs here are cuda:0 to cuda:{count - 1}"
        )
    return (torch.device("cuda", int(index)),)


def no_cuda() -> str | None:
    """Why CUDA can't be used here, as a clause; None where it can."""
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()[0].partition(". ")[0].rstrip(".")
        return f"CUDA does not start here ({said})"
    return None if torch.cuda.device_count() else "there is no GPU that CUDA can use"


def gpus_on_the_bus() -> int:
    """NVIDIA display or 3D controllers on the PCI bus, with a driver or without."""
    found = 0
    for entry in _PCI.glob("*"):
        try:
            vendor, kind = (entry / "vendor").read_text(), (entry / "class").read_text()
        except OSError:
            continue
        found += vendor.strip() == "0x10de" and kind.startswith("0x03")
    return found


def directory(text: str) -> Path:
    """A folder that can be written to, made if need be: tried before the work and not after."""
    if not text:
        raise UsageError("--out should name a folder, it is empty")
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Of a name of its own, as the ranks of a pod try the same folder at the same time.
        handle, probe = tempfile.mkstemp(prefix=".aimills-probe", dir=path)
        os.close(handle)
        Path(probe).unlink()
    except FileExistsError:
        raise UsageError(f"can't write to the folder {text!r}: it is a file") from None
    except OSError as error:
        raise UsageError(f"can't write to the folder {text!r}: {error.strerror or error}") from None
    return path


def output_file(text: str, option: str = "--out") -> Path:
    if not text:
        raise UsageError(f"{option} should name a file, it is empty")
    path = Path(text)
    if path.is_dir():
        raise UsageError(f"{option} {text!r} is a folder; it should name a file")
    directory(str(path.parent))
    return path
