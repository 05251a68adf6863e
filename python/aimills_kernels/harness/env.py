"""What a record says about the machine it was made on.

Only what explains a figure: no host name, user, address or environment variable. A fact that could
not be had is null, with its reason in `missing`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from aimills_kernels._version import __version__

ROOT = Path(__file__).resolve().parents[3]  # the checkout, in an editable install
_TEXTS = {"name", "uuid", "driver_version", "vbios_version"}  # also where they look like a number
_TIMEOUT_S = 20
_PACKAGES = ("triton", "numpy", "pybind11", "pytest-benchmark", "av", "opencv-python-headless")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")

# nvidia-smi's names to ours; a unit that it leaves out is in ours.
_SMI = {
    "name": "name",
    "uuid": "uuid",
    "pci.device_id": "pci_device",
    "pci.sub_device_id": "pci_subdevice",
    "vbios_version": "vbios",
    "compute_cap": "compute_capability",
    "memory.total": "memory_mib",
    "driver_version": "driver",
    "power.limit": "power_limit_w",
    "power.default_limit": "power_default_limit_w",
    "clocks.max.sm": "clock_max_sm_mhz",
    "clocks.max.memory": "clock_max_memory_mhz",
    "clocks.applications.graphics": "clock_application_sm_mhz",
    "ecc.mode.current": "ecc",
    "mig.mode.current": "mig",
    "persistence_mode": "persistence",
    "pcie.link.gen.current": "pcie_gen",
    "pcie.link.width.current": "pcie_width",
    "pcie.link.gen.max": "pcie_gen_max",
    "pcie.link.width.max": "pcie_width_max",
}


class Facts:
    """Collects facts; one that can't be had becomes None with a line in `missing`."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def get(self, name: str, find: Callable[[], Any]) -> Any:
        try:
            value = find()
        except Exception as error:  # a stamp never fails, whatever a driver does
            self.missing.append(f"{name}: {first_line(error)}")
            return None
        if value is None:
            self.missing.append(f"{name}: not reported")
        return value


def stamp(device: str | None = None, project: Path = ROOT) -> dict[str, Any]:
    """The environment as JSON-able facts; `git` is of the folder whose code is measured, by default
    this package's. Never raises."""
    facts = Facts()
    found = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device) if device is not None else None,
        "package": __version__,
        "git": _git(facts, project),
        "python": platform.python_version(),
        "torch": facts.get("torch", _torch),
        **{name.replace("-", "_"): facts.get(name, _version(name)) for name in _PACKAGES},
        "cupy": facts.get("cupy", _cupy),
        "os": facts.get("os", _os_name),
        "kernel": platform.release(),
        "cpu": _cpu(facts),
        "memory_gib": facts.get("memory", _memory_gib),
        "gpus": gpus(facts),
        "cuda_driver": facts.get("CUDA of the driver", _cuda_driver),
        "nvcc": facts.get("nvcc", _nvcc),
        "extension": facts.get("extension", _extension),
    }
    return {**found, "missing": facts.missing}


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _output(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not on PATH")
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip() or f"exit {done.returncode}")
    return done.stdout.strip()


def _git(facts: Facts, project: Path) -> dict[str, Any] | None:
    at = ("git", "-C", str(project))
    if project == ROOT and not (ROOT / ".git").exists():
        return None  # an installed wheel: the package version says it
    if project != ROOT:
        try:
            _output(*at, "rev-parse", "--is-inside-work-tree")
        except (OSError, RuntimeError, subprocess.SubprocessError):
            return None
    state = ("status", "--porcelain", "--", ":/", ":(exclude,top,glob)**/.benchmarks/**")
    commit = facts.get("git commit", lambda: _output(*at, "rev-parse", "--verify", "HEAD"))
    dirty = facts.get("git state", lambda: bool(_output(*at, *state)))
    return {"commit": commit, "dirty": dirty}


def _version(package: str) -> Callable[[], str]:
    def find() -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            raise LookupError("not installed") from None

    return find


def _cupy() -> str:
    for name in _CUPY:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise LookupError("not installed")


def _torch() -> dict[str, Any]:
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}


def _os_name() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"]


def _cpu(facts: Facts) -> dict[str, Any]:
    return {
        "model": facts.get("cpu model", _cpu_model),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": facts.get("usable cores", lambda: len(os.sched_getaffinity(0))),
        "threads": facts.get("threads", _threads),
        "load_1min": facts.get("load", lambda: round(os.getloadavg()[0], 2)),
        "last_level_cache_bytes": facts.get("last-level cache", last_level_cache),
    }


def _cpu_model() -> str | None:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found.group(1).strip() if found else None


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def last_level_cache() -> int | None:
    """Bytes of the largest cache that core 0 sees; None where the kernel doesn't say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG])", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes, default=None)


def _memory_gib() -> float:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _cuda_driver() -> str:
    """The newest CUDA that the driver serves, as 13.0."""
    import pynvml

    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetCudaDriverVersion()
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvcc() -> str | None:
    found = re.search(r"release [\d.]+, V([\d.]+)", _output("nvcc", "--version"))
    return found.group(1) if found else None


def _extension() -> dict[str, Any]:
    """What the compiled extension says of itself; the reason where it can't be imported."""
    from importlib import import_module

    module = import_module("aimills_kernels._C")
    return {
        "archs": [int(a) for a in getattr(module, "archs", ())],
        "cuda_version": getattr(module, "cuda_version", "") or None,
    }


def gpus(facts: Facts) -> list[dict[str, Any]]:
    """Each GPU that nvidia-smi lists, with what torch adds to it."""
    listed = facts.get("nvidia-smi", smi) or []
    for index, extra in enumerate(facts.get("torch.cuda", _torch_gpus) or []):
        known = [g for g in listed if g.get("uuid") and g["uuid"] == extra["uuid"]]
        if known:
            known[0].update(extra, torch_index=index)
        else:
            listed.append({**dict.fromkeys(_SMI.values()), **extra, "torch_index": index})
    for gpu in listed:
        absent = [k for k, v in gpu.items() if v is None]
        if absent:
            facts.missing.append(f"gpu {gpu.get('uuid')}: not reported: {', '.join(absent)}")
    return listed


def smi() -> list[dict[str, Any]]:
    """nvidia-smi's view. A field that this driver doesn't know would fail the whole query, so the
    fields are then asked for one by one."""
    try:
        return parse_smi(_query(list(_SMI)), list(_SMI))
    except RuntimeError:
        rows: list[dict[str, Any]] = parse_smi(_query(["uuid"]), ["uuid"])
        for field in _SMI:
            try:
                column = parse_smi(_query([field]), [field])
            except RuntimeError:
                column = [{_SMI[field]: None} for _ in rows]
            for row, value in zip(rows, column, strict=True):
                row.update(value)
        return rows


def _query(fields: list[str]) -> str:
    return _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")


def parse_smi(text: str, fields: list[str]) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        values = [v.strip() for v in line.split(",")]
        if len(values) != len(fields):
            raise RuntimeError(f"nvidia-smi gave {len(values)} values for {len(fields)} fields")
        pairs = zip(fields, values, strict=True)
        rows.append({_SMI[f]: _known(v) if f in _TEXTS else _number(v) for f, v in pairs})
    return rows


def _known(text: str) -> str | None:
    """In brackets it says why there is none: not supported, deprecated, no permission."""
    absent = not text or text[0] + text[-1] == "[]" or text.lower() in ("n/a", "unknown")
    return None if absent else text


def _number(text: str) -> Any:
    if _known(text) is None:
        return None
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text


def _torch_gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is usable by torch")
    found = []
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        uuid = getattr(p, "uuid", None)
        found.append(
            {
                "name": p.name,
                "uuid": f"GPU-{uuid}" if uuid is not None else None,
                "sm": 10 * p.major + p.minor,
                "sm_count": p.multi_processor_count,
                "l2_bytes": getattr(p, "L2_cache_size", None),
                "memory_bytes": p.total_memory,
            }
        )
    return found
