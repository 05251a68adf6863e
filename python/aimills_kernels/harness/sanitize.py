"""compute-sanitizer over the tiny cases of our own GPU kernels.

Run as a module, this is the program that the sanitizer watches. PyTorch's caching allocator would
hide reads beyond a tensor, so it is switched off there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

TOOLS = ("memcheck", "racecheck")
_FOUND = 86  # the exit status that the sanitizer gives where it found something


def program() -> str | None:
    """compute-sanitizer on PATH or under $CUDA_HOME (or CUDA_PATH, /usr/local/cuda)."""
    if found := shutil.which("compute-sanitizer"):
        return found
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (path := Path(home, "bin", "compute-sanitizer")).is_file():
            return str(path)
    return None


def check(tool: str, out: Path, limit_s: float) -> dict[str, Any]:
    """One tool over all tiny cases; its text goes to `out`/sanitizer-<tool>.txt.

    {"tool", "ok": True, False, or None where it could not run, "text"}.
    """
    sanitizer = program()
    if sanitizer is None:
        return {"tool": tool, "ok": None, "text": "compute-sanitizer is not installed"}
    command = [
        sanitizer, "--tool", tool, "--error-exitcode", str(_FOUND), "--target-processes", "all",
        sys.executable, "-m", "aimills_kernels.harness.sanitize",
    ]  # fmt: skip
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    log = out / f"sanitizer-{tool}.txt"
    with log.open("w") as file:
        code = _run(command, environment, file, limit_s)
    if code is None:
        return {"tool": tool, "ok": None, "text": f"not finished after {limit_s:.0f} s"}
    launched = sum(line.startswith("ran ") for line in log.read_text().splitlines())
    if code == 0 and launched:
        return {"tool": tool, "ok": True, "text": f"clean, {launched} launches"}
    if code == 0:
        return {"tool": tool, "ok": None, "text": "no kernel of ours could run"}
    if code == _FOUND:
        return {"tool": tool, "ok": False, "text": f"errors, see {log.name}"}
    return {"tool": tool, "ok": None, "text": f"exit {code}, see {log.name}"}


def _run(
    command: list[str], environment: dict[str, str], file: TextIO, limit_s: float
) -> int | None:
    """The exit status; None where it took too long. The program that is watched would outlive the
    sanitizer, so all of its group is ended."""
    with subprocess.Popen(
        command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


def main() -> int:
    """Launch each provider of our own on each tiny case, once."""
    import torch

    from aimills_kernels import _dispatch
    from aimills_kernels._op import Problem
    from aimills_kernels._registry import OPS
    from aimills_kernels._validate import run_provider

    place = torch.device("cuda", 0)
    for op in OPS:
        for case in (c for c in op.cases if c.name.startswith("tiny")):
            args = op.make_inputs(case, place, 0)
            problem = Problem(op, args, "cuda", _dispatch.sm_of(place))
            for provider in (p for p in op.providers if not p.vendor):
                if _dispatch.why_not(provider, problem) is None:
                    run_provider(op, provider, args)
                    torch.cuda.synchronize(place)
                    print(f"ran {op} {case} {provider}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
