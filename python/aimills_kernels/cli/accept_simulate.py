"""`accept --simulate`: a pod that isn't there, through the same judge and report."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aimills_kernels.cli import _ui
from aimills_kernels.cli._errors import UsageError

_RUN = "aimills_kernels.cli.accept_simulate:run"
_NODES = (1, 8, 64, 512)
_SHOWN = 12  # reasons in the terminal; the report has all
_WORDS = {0: "accepted", 1: "rejected", 2: "incomplete"}
_DEFAULT = "quick"  # profile
_TAKEN = {
    "--simulate",
    "--fault",
    "--nodes",
    "--times",
    "--profile",
    "--seed",
    "--criteria",
    "--out",
}


class _Simulate(argparse.Action):
    """Takes the run over from `accept`, which needs torch and a device."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, value if self.nargs != 0 else True)
        namespace.run = _RUN


def arguments(parser: ArgumentParser) -> None:
    made = parser.add_argument_group("a simulated pod, for training and for tests")
    made.add_argument(
        "--simulate", action=_Simulate, metavar="POD",
        help="in place of this machine: h200x8, h200x8*4 (nodes), b200x8, l40sx4, cpu, ...",
    )  # fmt: skip
    made.add_argument("--fault", action=_Simulate, metavar="NAME", help="that the pod has")
    made.add_argument(
        "--nodes", action=_Simulate, type=_count, metavar="N", help="as many nodes of that kind"
    )
    made.add_argument(
        "--times", action=_Simulate, nargs=0, default=False,
        help="print how long each profile takes on 1, 8, 64 and 512 nodes, and stop",
    )  # fmt: skip


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 10_000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of nodes")


def run(options: Namespace) -> int:
    from aimills_kernels.accept.criteria.lint import sound
    from aimills_kernels.accept.evidence_folder import taken
    from aimills_kernels.accept.simulate import layout

    if options.simulate is None:
        raise UsageError("--fault, --nodes and --times go with --simulate POD")
    if options.sign is not None:
        raise UsageError(
            "--sign: the report of a simulated pod can't be signed as a pod's; leave it out, and "
            "sign the folder as a test by `accept sign --as-test`"
        )
    _refuse_others(options.words)
    pod = layout(options.simulate, options.nodes)
    if options.times:
        _times(pod)
        return 0
    if not options.out:
        raise UsageError("--out should name a folder, it is empty")
    folder = Path(options.out)
    if said := taken(folder, None):
        raise UsageError(f"--out: {folder} {said}; name another folder")
    named = getattr(options, "criteria", None)
    _write(
        pod, folder, fault=options.fault, seed=options.seed,
        profile=getattr(options, "profile", None) or _DEFAULT,
        criteria=sound(named) if named else None,
        criteria_file=Path(named).resolve() if named and Path(named).is_file() else None,
    )  # fmt: skip
    code, findings = _merged(folder, named)
    _tell(pod.name, options, code, findings)
    _ui.say(f"evidence and report: {folder}")
    return code


def _write(pod: Any, folder: Path, **options: Any) -> None:
    from aimills_kernels.accept.simulate import write

    try:
        write(pod, folder, **options)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UsageError(f"can't write to the folder {str(folder)!r}: {error.strerror}") from None
    except OSError as error:
        why = error.strerror or error
        text = (
            f"the simulated pod's journals in {folder} can't be written ({why}); remove the folder"
        )
        raise OSError(error.errno, text) from error


def _refuse_others(words: Sequence[str]) -> None:
    """What is asked of a real run, and would be left undone here."""
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in _TAKEN:
            raise UsageError(
                f"{name} does not go with --simulate, which takes {', '.join(sorted(_TAKEN))}"
            )


def _merged(folder: Path, named: str | None) -> tuple[int, Any]:
    """As a real run ends."""
    from aimills_kernels.accept.judged import merge

    done = merge(folder, named)
    return done.code, done.findings


def _tell(name: str, options: Namespace, code: int, findings: Any) -> None:
    bad = [f for f in findings if f.status in ("fail", "unknown")]
    for finding in bad[:_SHOWN]:
        _ui.say(f"  {finding.status}: {finding.text}", "red" if code == 1 else "yellow")
    if len(bad) > _SHOWN:
        _ui.say(f"  and {len(bad) - _SHOWN} more, in the report")
    fault = f" with {options.fault}" if options.fault else ""
    said = f"{_WORDS[code]} (simulated {name}{fault}, seed {options.seed}; no pod was tested)"
    _ui.say(said, _ui.style_of(_WORDS[code]))


def _times(pod: Any) -> None:
    from aimills_kernels.accept.metrics import PROFILES
    from aimills_kernels.accept.simulate.schedule import expected_seconds

    rows = [
        [profile, *(_clock(expected_seconds(profile, pod.gpus, nodes)) for nodes in _NODES)]
        for profile in PROFILES
    ]
    title = f"expected time, {pod.gpus} devices a node, by simulation"
    heads = [f">{n} node{'s' * (n > 1)}" for n in _NODES]
    _ui.table(title, ["profile", *heads], rows)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
