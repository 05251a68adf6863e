"""One side of an A/B run: times the kernels of one checkout, block by block, as it is told.

Run as a file by `harness/ab.py`, and imports nothing of this package but from the checkout that it
is given. It reads one JSON object a line and answers with one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

Answer = dict[str, Any]
_WARM_CALLS = 10


def use_checkout(folder: Path, extension: str) -> None:
    """Import aimills_kernels from `folder`. With `extension`, that compiled module serves it, in
    place of what is installed; without, this Python has the checkout installed."""
    if extension:
        sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__name__.startswith("Scikit")]
        package = folder / "python" / "aimills_kernels"
        spec = importlib.util.spec_from_file_location(
            "aimills_kernels", package / "__init__.py",
            submodule_search_locations=[str(package), str(folder), extension],
        )  # fmt: skip
        assert spec is not None
        assert spec.loader is not None
        sys.modules["aimills_kernels"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    import aimills_kernels

    found = Path(str(aimills_kernels.__file__)).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise RuntimeError(f"{sys.executable} imports {found}, not the checkout {folder}")


class Side:
    """What is timed at present."""

    def __init__(self) -> None:
        self.contestant: Any = None
        self.timer: Any = None
        self.device: Any = None
        self.round = 0
        self.repeats = 1

    def hello(self) -> Answer:
        from aimills_kernels.harness import env

        return {"environment": env.stamp()}

    def open(self, op: str, case: str, provider: str, device: str, seed: int) -> Answer:
        """Check the provider on the case and make it ready; `skipped` or `failure` says why not."""
        import torch

        from aimills_kernels import _dispatch
        from aimills_kernels._registry import get_op
        from aimills_kernels._validate import validate_each
        from aimills_kernels.harness import _contest
        from aimills_kernels.harness.timing import timer_for

        declared = get_op(op)
        place, chosen = torch.device(device), declared.provider(provider)
        if chosen.interpret and place.type == "cpu" and _dispatch.interpreting():
            return {"skipped": "Triton's interpreter shows what is right, not how long it takes"}
        problem = declared.case(case)
        (found,) = validate_each(declared, problem, [chosen], device=place, seed=seed)
        if not found.ok:
            return {"failure": "; ".join(found.failures) or None, "skipped": found.skipped}
        if self.timer is None or self.device != place:
            self.timer, self.device = timer_for(place), place
        problem = problem.on(place.type)
        stage = _contest.Stage(declared, problem, place, seed, self.timer.cache_bytes)
        self.contestant, self.round, self.repeats = _contest.OfProvider(stage, chosen), 0, 1
        first = sorted(self._sample() for _ in range(_WARM_CALLS))
        self.repeats = self.timer.repeats(first[len(first) // 2])
        return {"inputs": _digest(stage.sets[0]), "dims": str(problem.dims)}

    def block(self, n: int) -> Answer:
        """`n` samples, after one that brings the device back from the other side's work."""
        self._sample()
        return {"samples_us": [self._sample() for _ in range(n)]}

    def _sample(self) -> float:
        self.contestant.rotate(self.round)
        self.round += 1
        self.timer.flush()
        return float(self.timer.sample(self.contestant, self.repeats))

    def close(self) -> Answer:
        """Whether what was timed is right."""
        contestant, self.contestant = self.contestant, None
        _, wrong = contestant.check(self.timer)
        return {"failure": "; ".join(wrong) or None}


def _digest(args: Any) -> str:
    """Of the data of all tensors."""
    import torch

    from aimills_kernels._op import tensors_of

    digest = hashlib.sha256()
    for t in tensors_of(args):
        plain = t.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def serve(asked: TextIO, answers: TextIO) -> None:
    side = Side()
    for line in asked:
        message = json.loads(line)
        try:
            answer = getattr(side, message.pop("do"))(**message)
        except Exception as error:  # a checkout of another time may lack anything
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


def main(folder: str, extension: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a kernel prints is no answer
    use_checkout(Path(folder), extension)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
