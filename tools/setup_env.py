"""Set up `.venv` for this checkout: pinned packages, then the editable build. `make setup` runs it.

Only the standard library, and Python 3.9 is enough to run it: it looks for a newer Python itself.
A finished set-up leaves a stamp, so the next call does nothing; one that was cut short leaves a
mark, so the next call starts over.

OFFLINE=1            the system's packages, no network (a node that has all of them already)
AIMILLS_TORCH=cpu    the CPU build of PyTorch although there is an NVIDIA GPU; cuda: the reverse
AIMILLS_CUDA=OFF     no CUDA kernels in the extension although there is an nvcc; ON: insist on them
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, NEWEST = (3, 11), (3, 13)  # the pinned wheels exist for these
DISK_GIB = {"cpu": 4, "cuda": 14, "offline": 1}
TAIL_LINES = 15

REQUIRED = ("torch", "triton", "numpy", "pybind11", "scikit_build_core", "cmake", "pytest")
OPTIONAL = {
    "av": "decoding of real video",
    "PIL": "the comparison with Pillow",
    "compressed_tensors": "the comparison with compressed-tensors",
    "cupy": "the NVRTC kernels",
    "cv2": "the comparison with OpenCV",
    "hypothesis": "the tests with drawn shapes",
    "pytest_benchmark": "the pytest benchmarks",
    "yaml": "the checks of workflow files",
    "ruff": "make lint",
    "safetensors": "reading checkpoints",
    "transformers": "attention in Transformers",
}
COMMANDS = {"cmake": "cmake", "ruff": "ruff"}  # a program on the path serves as well as a wheel
NUMPY_TOO_NEW = (2, 4)  # for Triton's interpreter, as `tests/interpret` has it

BYTE_CODE = (
    "import sys; sys.dont_write_bytecode = False;"
    "import hypothesis, pytest, sympy, torch._dynamo, torch._inductor.compile_fx, triton, xdist"
)


class Stop(Exception):
    """Ends the set-up with one sentence. `start_over`: what is on disk can't be built upon."""

    def __init__(self, sentence: str, *, start_over: bool = False):
        super().__init__(sentence)
        self.start_over = start_over


@dataclass(frozen=True)
class Plan:
    """What to set up, and where."""

    root: Path
    offline: bool
    variant: str  # "cpu" or "cuda"
    build_args: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def constraints(self) -> Path:
        return self.root / f"constraints-{self.variant}.txt"

    @property
    def stamp(self) -> Path:
        return self.venv / "setup.json"

    @property
    def mark(self) -> Path:
        return self.venv / "unfinished"

    @property
    def log(self) -> Path:
        return self.venv / "setup.log"


# ---- what this machine has


def nvidia_driver(proc: Path = Path("/proc/driver/nvidia/version")) -> bool:
    """Whether an NVIDIA driver answers."""
    if proc.exists():
        return True
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def nvidia_gpu_on_bus(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether an NVIDIA display or 3D controller is plugged in, with a driver or without."""
    for device in pci.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def find_nvcc(environ: Mapping[str, str]) -> str | None:
    """nvcc by CUDACXX, by the path, or where the toolkit puts it when nobody extends the path."""
    usual = Path(environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    found = environ.get("CUDACXX") or shutil.which("nvcc", path=environ.get("PATH"))
    return found or (str(usual) if usual.exists() else None)


def python_version(command: str) -> tuple[int, int] | None:
    """Its (major, minor); None where it can't be run (a shim without a Python behind it)."""
    script = "import sys; print(*sys.version_info[:2])"
    try:
        out = subprocess.run([command, "-c", script], capture_output=True, text=True, timeout=60)
        major, minor = out.stdout.split()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return int(major), int(minor)


def find_python(candidates: tuple[str, ...] = ()) -> str:
    """The Python for the environment: the running one where it fits, else one from the path."""
    candidates = candidates or (
        sys.executable, "python3.11", "python3.12", "python3.13", "python3"
    )  # fmt: skip
    versions = {command: python_version(command) for command in candidates}
    for command, version in versions.items():
        if version and OLDEST <= version <= NEWEST:
            return command
    for command, version in versions.items():
        if version and version > NEWEST:
            return command
    seen = max((v for v in versions.values() if v), default=None)
    here = "no Python was found" if seen is None else f"the newest here is {seen[0]}.{seen[1]}"
    raise Stop(
        f"Python 3.11, 3.12 or 3.13 is needed and {here}: install one "
        "(`apt install python3 python3-venv python3-dev` on Debian 12)."
    )


def missing_prerequisites(python: str, plan: Plan) -> dict[str, str]:
    """What the build needs from the system and does not find: {what: Debian package}."""
    script = (
        "import importlib.util as u, os, sysconfig as s;"
        "print(int(u.find_spec('venv') is not None),"
        "int(u.find_spec('ensurepip') is not None), int(u.find_spec('pip') is not None),"
        "int(os.path.exists(os.path.join(s.get_path('include'), 'Python.h'))))"
    )
    out = subprocess.run([python, "-c", script], capture_output=True, text=True)
    venv, ensurepip, pip, header = (int(x) for x in out.stdout.split())
    missing = {}
    if not venv or not (ensurepip or (plan.offline and pip)):
        missing["Python's venv module"] = "python3-venv"
    if not header:
        missing["Python's C headers"] = "python3-dev"
    named = plan.environ.get("CXX", "").split()[:1]
    compilers = named or ["c++", "g++", "clang++"]
    if not any(shutil.which(c, path=plan.environ.get("PATH")) for c in compilers):
        missing["a C++ compiler"] = "g++"
    return missing


def check_machine(python: str, plan: Plan) -> None:
    if missing := missing_prerequisites(python, plan):
        what = " and ".join(missing)
        raise Stop(f"{what} not found: install with `apt install {' '.join(missing.values())}`.")
    need = DISK_GIB["offline" if plan.offline else plan.variant]
    free = shutil.disk_usage(plan.root).free / 2**30
    if free < need and not plan.python.exists():
        raise Stop(f"the disk has {free:.1f} GiB free and the set-up needs {need}: make room.")


# ---- the stamp


def digest(root: Path, paths: tuple[str, ...], *extra: str) -> str:
    """Hash of files (folders: all files below) by relative path and content, and of `extra`."""
    sha = hashlib.sha256("\0".join(extra).encode())
    for name in paths:
        top = root / name
        below = (p for p in top.rglob("*") if p.is_file()) if top.is_dir() else (top,)
        for path in sorted(below):
            if path.exists():
                sha.update(f"\0{path.relative_to(root)}\0".encode())
                sha.update(path.read_bytes())
    return sha.hexdigest()


def wanted(plan: Plan) -> dict[str, str]:
    """The stamp that a finished set-up of `plan` leaves."""
    sources = ("CMakeLists.txt", "cmake", "csrc", "pyproject.toml")
    version = "python/aimills_kernels/_version.py"
    nvcc = find_nvcc(plan.environ) or ""
    return {
        "root": str(plan.root),
        "mode": "offline" if plan.offline else "online",
        "environment": digest(plan.root, (plan.constraints.name, "tools/setup_env.py")),
        "toolchain": " ".join((nvcc, *plan.build_args)),
        "build": digest(plan.root, (*sources, version)),
    }


def read_stamp(plan: Plan) -> dict[str, str]:
    try:
        return json.loads(plan.stamp.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(plan: Plan, stamp: Mapping[str, str]) -> None:
    part = plan.stamp.with_suffix(".part")
    part.write_text(json.dumps(stamp, indent=1) + "\n")
    part.replace(plan.stamp)


def make_plan(environ: Mapping[str, str], root: Path = ROOT) -> Plan:
    """From the environment variables. An offline `.venv` stays one until OFFLINE=0 is given, and
    one that was finished with a network serves OFFLINE=1 as it is."""
    variant = environ.get("AIMILLS_TORCH") or ("cuda" if nvidia_driver() else "cpu")
    if variant not in ("cpu", "cuda"):
        raise Stop(f"AIMILLS_TORCH is {variant!r}: give cpu or cuda, or leave it out.")
    cuda = environ.get("AIMILLS_CUDA") or "AUTO"
    if cuda not in ("AUTO", "ON", "OFF"):
        raise Stop(f"AIMILLS_CUDA is {cuda!r}: give AUTO, ON or OFF, or leave it out.")
    args = ("--config-settings", f"cmake.define.AIMILLS_CUDA={cuda}")
    plan = Plan(root, False, variant, args, environ)
    stamp, asked = read_stamp(plan), environ.get("OFFLINE", "")
    if stamp.get("root") == str(root) and stamp.get("mode") == "offline" and not asked:
        asked = "1"
    offline = asked not in ("", "0") and not is_current(stamp, plan)
    return Plan(root, offline, variant, args, environ)


def is_current(stamp: Mapping[str, str], plan: Plan) -> bool:
    """Whether the packages are those of `plan`; then no network is needed, only perhaps a build."""
    want = wanted(plan)
    return all(stamp.get(key) == want[key] for key in ("root", "mode", "environment"))


# ---- the steps


class Progress:
    """One line a step with its time; on a terminal the time counts up."""

    def __init__(self, plan: Plan, steps: int):
        self.plan, self.steps, self.done = plan, steps, 0
        self.live = sys.stdout.isatty()

    def run(self, title: str, *commands: list[str], fallback: list[str] | None = None) -> None:
        """Run the commands; where one fails and there is a `fallback`, that instead."""
        self.done += 1
        self.line = f"  [{self.done}/{self.steps}] {title:<44}"
        if not self.live:
            print(self.line, end=" ", flush=True)
        begin, offset = time.monotonic(), size(self.plan.log)
        for command in commands:
            code = self._wait(command, begin)
            if code and fallback and "No space left" not in self._output(offset):
                code = self._wait(fallback, begin)
            if code:
                print()
                self._fail(title, self._output(offset))
        print(f"\r{self.line}" * self.live, f"{time.monotonic() - begin:5.0f} s", flush=True)

    def _wait(self, command: list[str], begin: float) -> int:
        with self.plan.log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            child = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.plan.root, env=child_environ(self.plan)
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        return child.wait(timeout=0.5)
                    if self.live:
                        spent = time.monotonic() - begin
                        print(f"\r{self.line} {spent:5.0f} s", end="", flush=True)
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()

    def _output(self, offset: int) -> str:
        with self.plan.log.open(errors="replace") as log:
            log.seek(offset)
            return log.read()

    def _fail(self, title: str, output: str) -> None:
        for line in telling_lines(output):
            print(f"    {line[:200]}", file=sys.stderr)
        raise explain_failure(title, output, self.plan)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def child_environ(plan: Plan) -> dict[str, str]:
    env = {**plan.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    env.pop("PIP_USER", None)
    if plan.offline:
        env = {k: v for k, v in env.items() if not k.startswith("PIP_")}
        env.update(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if nvcc := find_nvcc(plan.environ):
        env["CUDACXX"] = nvcc
    return env


FAILURES = (
    (r"No space left on device", "the disk is full: make room, then run it again."),
    (
        r"name resolution|NewConnectionError|Failed to establish|unreachable|ProxyError|ConnectTime"
        r"|Connection refused|Connection reset|Read timed out",
        "no package index can be reached: check the network, or give OFFLINE=1 where the system "
        "has the packages already.",
    ),
    (
        r"No matching distribution found for ([\w.+=-]+)",
        r"\1 is not to be had from the configured package indexes for this Python.",
    ),
    (
        r"unsupported GNU version",
        "nvcc does not take this g++: install an older one and name it in CUDAHOSTCXX, or give "
        "AIMILLS_CUDA=OFF.",
    ),
    (r"AIMILLS_CUDA=ON but", "AIMILLS_CUDA=ON needs nvcc: install the CUDA toolkit (13.0)."),
    (r"Killed signal|out of memory allocating", "the build ran out of memory: free some."),
)


def telling_lines(output: str) -> list[str]:
    """From the first error of CMake, compiler or linker on; else the last lines."""
    lines = output.splitlines()
    for i, line in enumerate(lines):
        if re.search(r"CMake Error|\berror:|undefined reference", line):
            return lines[i : i + TAIL_LINES]
    return lines[-TAIL_LINES:]


def explain_failure(title: str, output: str, plan: Plan) -> Stop:
    log = plan.log.relative_to(plan.root)
    for pattern, sentence in FAILURES:
        if found := re.search(pattern, output):
            full = pattern.startswith("No space")
            return Stop(f"{title}: {found.expand(sentence)} (log: {log})", start_over=full)
    return Stop(f"{title}: failed as shown above (log: {log})")


def create_venv(plan: Plan, python: str, progress: Progress) -> bool:
    """A sound `.venv`; says whether it is new. Only one that this script left unfinished, that was
    moved or that can't run is removed."""
    stamp = read_stamp(plan)
    moved = stamp.get("root", str(plan.root)) != str(plan.root)
    if plan.mark.exists() or moved or python_version(str(plan.python)) is None:
        shutil.rmtree(plan.venv, ignore_errors=True)
    plan.stamp.unlink(missing_ok=True)
    fresh = not plan.venv.exists()
    plan.venv.mkdir(exist_ok=True)
    plan.mark.touch()
    if not fresh:
        if (python_version(str(plan.python)) or (0, 0)) < OLDEST:
            raise Stop("`.venv` holds a Python older than 3.11: run `make clean` first.")
        progress.run("the environment that is here", [str(plan.python), "-m", "pip", "--version"])
        return False
    command = [python, "-m", "venv", str(plan.venv)]
    if plan.offline:
        command.insert(3, "--system-site-packages")
        if not has_module(python, "ensurepip"):
            command.insert(3, "--without-pip")
    progress.run(f"environment in {plan.venv.name}", command)
    if plan.offline:
        link_parent(plan, python)
    return True


def has_module(python: str, name: str) -> bool:
    script = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", script]).returncode == 0


def link_parent(plan: Plan, python: str) -> None:
    """Where the system's Python is itself an environment, show the new one its packages too."""
    script = (
        "import sys, sysconfig as s; print(s.get_path('purelib'), sys.prefix != sys.base_prefix)"
    )
    ask = [[command, "-c", script] for command in (python, str(plan.python))]
    (parent, nested), (own, _) = (
        subprocess.run(a, capture_output=True, text=True).stdout.strip().rsplit(" ", 1) for a in ask
    )
    if nested == "True":
        (Path(own) / "parent.pth").write_text(parent + "\n")


def forget_build(plan: Plan) -> None:
    """CMake's cache would keep the Python, pybind11 and nvcc that it found the last time."""
    for cache in plan.root.glob("build/*/CMakeCache.txt"):
        cache.unlink()


def install_packages(plan: Plan, progress: Progress) -> None:
    """Every line of the constraints, PyTorch first: unpinned it would bring gigabytes along."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", plan.constraints.read_text(), re.M)
    torch = next(version for name, version in pins if name == "torch")
    # --no-compile: byte code of what is never imported takes a third of the time. That of what is
    # takes each process of the tests 11 s where PYTHONDONTWRITEBYTECODE is set, so it is made here.
    pip = [str(plan.python), "-m", "pip", "install", "--no-deps", "--no-compile"]
    pip += ["--retries", "2"]
    public = [*pip, "--index-url", TORCH_CPU_INDEX, f"torch=={torch}"]
    progress.run(
        f"PyTorch {torch}", [*pip, f"torch=={torch}"],
        fallback=public if plan.variant == "cpu" else None,
    )  # fmt: skip
    progress.run(
        f"{len(pins) - 1} pinned packages", [*pip, "-r", str(plan.constraints)],
        [str(plan.python), "-P", "-c", BYTE_CODE],
    )  # fmt: skip


def check_offline(plan: Plan, fresh: bool) -> None:
    """The system's packages serve: all that is required is there, and what else is not is named."""
    missing = missing_modules(plan, (*REQUIRED, *OPTIONAL))
    if required := [name for name in missing if name in REQUIRED]:
        raise Stop(
            f"OFFLINE=1, and this Python has no {', '.join(required)}: install on the system, "
            "name one that has them by PYTHON=<path>, or run without OFFLINE=1 where there is a "
            "network.",
            start_over=fresh,
        )
    for name in missing:
        print(f"        not there: {name}; {OPTIONAL[name]} will not run")
    if (found := numpy_version(plan)) >= NUMPY_TOO_NEW:
        here, limit = (".".join(map(str, version)) for version in (found, NUMPY_TOO_NEW))
        print(
            f"        numpy is {here}; the tests in Triton's interpreter need one below {limit} "
            "and will be skipped"
        )


def numpy_version(plan: Plan) -> tuple[int, ...]:
    """(major, minor) of the environment's numpy; empty where it says none."""
    script = "from importlib.metadata import version; print(version('numpy'))"
    command = [str(plan.python), "-P", "-c", script]
    out = subprocess.run(command, capture_output=True, text=True, env=child_environ(plan))
    return tuple(map(int, re.findall(r"\d+", out.stdout)[:2]))


def missing_modules(plan: Plan, names: tuple[str, ...]) -> list[str]:
    """Those that the environment's Python can't import; nothing is imported to find out."""
    script = (
        "from importlib.util import find_spec; import sys;"
        "print(*[name for name in sys.argv[1:] if not find_spec(name)])"
    )
    # -P: a folder of the checkout is no package.
    out = subprocess.run(
        [str(plan.python), "-P", "-c", script, *names],
        capture_output=True, text=True, cwd=plan.root, env=child_environ(plan),
    )  # fmt: skip
    path = plan.environ.get("PATH")
    return [n for n in out.stdout.split() if not shutil.which(COMMANDS.get(n, ""), path=path)]


def build(plan: Plan, progress: Progress) -> None:
    pip = [str(plan.python), "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps"]
    progress.run("build of the extension", [*pip, *plan.build_args, "-e", str(plan.root)])


# ---- the whole


@contextlib.contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    with (root / "tools" / "setup_env.py").open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another set-up of this checkout is running; waiting for it", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def set_up_packages(plan: Plan, python: str, progress: Progress) -> None:
    """The environment up to the build; the mark stays where it was cut short."""
    try:
        fresh = create_venv(plan, python, progress)
        if plan.offline:
            check_offline(plan, fresh)
        else:
            install_packages(plan, progress)
    except Stop as stop:
        if not stop.start_over:
            plan.mark.unlink(missing_ok=True)
        raise
    plan.mark.unlink()


def set_up(plan: Plan) -> None:
    want, stamp = wanted(plan), read_stamp(plan)
    if stamp == want:
        return
    begin = time.monotonic()
    packages = not is_current(stamp, plan) or python_version(str(plan.python)) is None
    kind = "the system's packages" if plan.offline else f"{plan.variant.upper()} build of PyTorch"
    print(f"set-up ({kind}, log in .venv/{plan.log.name})", flush=True)
    if plan.variant == "cpu" and nvidia_gpu_on_bus():
        print("  an NVIDIA GPU is plugged in, but no driver answers: this is a set-up for the CPU")
    python = find_python() if packages else str(plan.python)
    check_machine(python, plan)
    progress = Progress(plan, (2 if plan.offline else 4) if packages else 1)
    if packages:
        set_up_packages(plan, python, progress)
        write_stamp(plan, {**want, "build": ""})
    if packages or stamp.get("toolchain") != want["toolchain"]:
        forget_build(plan)
    build(plan, progress)
    write_stamp(plan, want)
    print(f"set-up done in {time.monotonic() - begin:.0f} s", flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with one_at_a_time(ROOT):
            set_up(make_plan(os.environ))
    except Stop as stop:
        print(f"set-up: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run it again.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"set-up: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
