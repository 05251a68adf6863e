"""The parser. It imports neither torch nor rich, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from aimills_kernels._version import __version__
from aimills_kernels.accept.launch import WAIT_S
from aimills_kernels.accept.metrics import PROFILES
from aimills_kernels.cli._errors import UsageError
from aimills_kernels.harness._patience import TIMEOUT_S

DEVICE = "auto (every GPU, else the CPU), cpu, cuda or cuda:<index>"
OPS = (
    "names of ops, or of families, which stand for all of their ops: attention/, matmul/, video/; "
    "the slash may be left out where no op has that name; all by default"
)
_TIMEOUT = "end a check or a sample that takes longer"
_EXITS = "exit codes: 0 all is well, 1 something wrong, 2 what could have run did not, 3 wrong use"


# Second words of `bench`: each has a module here with `arguments(parser)` and `run(options)`, and
# imports neither torch nor rich at its top.
BENCH_VERBS: dict[str, str] = {
    "ab": "judge two checkouts, or two providers, that take turns in one run",
    "compare": "judge one run of benchmarks against another, row by row",
    "history": "show how the time of each row went over records, and where it changed",
    "report": "show records as a page and as Markdown, with plots",
    "tune": "write the tables of which provider serves a problem, from records",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


# The same of `accept`.
ACCEPT_VERBS: dict[str, str] = {
    "merge": "make the report anew from the journals in a folder, on any machine",
    "keygen": "make a pair of keys to sign reports with",
    "sign": "sign the journals and the report in a folder",
    "verify": "hold a report against its journals and its signature, offline",
    "diff": "compare two acceptance reports, device by device",
}
# Modules here whose `arguments(parser)` add options to `accept` itself.
ACCEPT_PARTS = ("accept_simulate",)
_VERBS = {"bench": BENCH_VERBS, "accept": ACCEPT_VERBS}


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="aimills-kernels",
        description="The kernels of an AI pod, and the test that proves a pod can run them.",
        epilog=_EXITS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    _env(commands)
    _ops(commands)
    _explain(commands)
    _validate(commands)
    _bench(commands)
    _verbs(commands, "bench")
    _precompile(commands)
    _accept(commands)
    _verbs(commands, "accept")
    _criteria(commands)
    _gpu(commands)
    _video(commands)
    return parser


def joined(argv: Sequence[str]) -> list[str]:
    """`bench compare ...` is a command of its own, beside `bench <op> ...`."""
    first, rest = list(argv[:2]), list(argv[2:])
    if len(first) == 2 and first[1] in _VERBS.get(first[0], {}):
        first = [" ".join(first)]
    return first + rest


def _verbs(commands: Any, first: str) -> None:
    for verb, text in _VERBS[first].items():
        made = _command(commands, f"{first} {verb}", f"{first}_{verb}:run", text)
        importlib.import_module(f"aimills_kernels.cli.{first}_{verb}").arguments(made)


def _command(commands: Any, name: str, run: str, text: str, **more: Any) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False, **more
    )
    made.set_defaults(run=f"aimills_kernels.cli.{run}")
    return made


def _env(commands: Any) -> None:
    made = _command(commands, "env", "look:env", "what this machine is, as records state it")
    made.add_argument("--json", action="store_true", help="as JSON")


def _ops(commands: Any) -> None:
    made = _command(commands, "ops", "look:ops", "the ops, their cases and their providers")
    made.add_argument("--json", action="store_true", help="as JSON")


def _explain(commands: Any) -> None:
    made = _command(
        commands,
        "explain",
        "explain:run",
        "which provider would serve a problem, and why the others would not",
        epilog='example: aimills-kernels explain attention --sm 90 --shape "B=1,M=512,N=512,H=32,'
        'G=8,D=128,causal=true"',
    )
    made.add_argument("op", help="name of an op")
    problem = made.add_mutually_exclusive_group(required=True)
    problem.add_argument("--shape", metavar="DIMS", help='the problem, as "B=1,M=128,..."')
    problem.add_argument("--case", metavar="NAME", help="one of the op's own cases")
    made.add_argument("--device", type=device, default="auto", help=DEVICE)
    made.add_argument(
        "--sm", type=int, metavar="N", help="as on a GPU of this capability (90), here or not"
    )


def chosen_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("op", nargs="*", help=OPS)
    made.add_argument("--case", type=names, metavar="NAME,...", help="only these cases")
    made.add_argument("--provider", type=names, metavar="NAME,...", help="only these providers")
    made.add_argument("--device", type=device, default="auto", help=DEVICE)
    made.add_argument("--seed", type=_seed, default=0, help="of the inputs (default 0)")


def _validate(commands: Any) -> None:
    made = _command(
        commands,
        "validate",
        "validate:run",
        "check providers against the reference in float64; on a GPU, record what is right",
        epilog="exit codes: 0 every check that ran is right, 1 one is wrong, 2 nothing ran or a "
        "check found too little memory, 3 wrong use. What a provider does not take (this device, "
        "the case, a package that isn't here) is listed as not run and changes none of them.",
    )
    chosen_arguments(made)
    made.add_argument("-v", "--verbose", action="store_true", help="one row for each check")


def _bench(commands: Any) -> None:
    made = _command(commands, "bench", "bench:run", "time right providers and their peers")
    chosen_arguments(made)
    made.add_argument("--budget", type=seconds, help="seconds (default 120, with --quick 60)")
    made.add_argument(
        "--mode",
        choices=("events", "graph", "host"),
        default="events",
        help="by events around queued calls (default; on a CPU by the clock), around a replayed "
        "CUDA graph, or what a call costs the host",
    )
    made.add_argument("--quick", action="store_true", help="one case of each op, known less well")
    made.add_argument(
        "--energy", action="store_true", help="joules per call too, of cases with the tag energy"
    )
    made.add_argument(
        "--configs", action="store_true", help="also with other tiles, a row each: for bench tune"
    )
    made.add_argument("--isolate", action="store_true", help="a process of its own for each case")
    made.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help=f"{_TIMEOUT} (default {TIMEOUT_S:g}; where it is named, and with --isolate, a process "
        "of its own does the work on a CPU too, as it does on a GPU)",
    )
    made.add_argument("--out", metavar="FILE", help="write the record here, as JSON")
    made.add_argument("--list-models", action="store_true", help="the models that --model knows")
    _model(made.add_argument_group("one forward pass of a real model, on one GPU of --tp"))


def _precompile(commands: Any) -> None:
    made = _command(
        commands,
        "precompile",
        "precompile:run",
        "compile ahead what a model's shapes need, for a GPU that need not be here",
    )
    made.add_argument("op", nargs="*", help=OPS)
    made.add_argument("--case", type=names, metavar="NAME,...", help="of the ops' own cases")
    made.add_argument("--sm", type=_count, metavar="N", help="of the GPU (90); that of one here")
    made.add_argument("--out", metavar="DIR", help="folder; Triton's own cache by default")
    _model(made, several=True)
    made.set_defaults(batch=[1])


def _model(made: Any, several: bool = False) -> None:
    batch, text = (_counts, "N,...: sequences") if several else (_count, "sequences")
    made.add_argument("--model", metavar="NAME", help="see `aimills-kernels bench --list-models`")
    made.add_argument("--tp", type=_count, default=1, metavar="N", help="tensor parallelism")
    made.add_argument("--phase", metavar="NAME", help="prefill, decode, ...; all by default")
    made.add_argument("--batch", type=batch, default=1, metavar="N", help=text)
    made.add_argument(
        "--context", type=_count, metavar="N", help="tokens of each (default 8192, a video's own)"
    )


def _accept(commands: Any) -> None:
    made = _command(
        commands,
        "accept",
        "accept:run",
        "check this machine or pod and write its evidence and report",
        epilog="exit codes: 0 accepted, 1 rejected, 2 incomplete, 3 wrong use. Started by torchrun,"
        " srun or mpirun it is one rank of a pod; by itself it starts one for each GPU.",
    )
    made.add_argument("--device", type=device, default="auto", help=DEVICE)
    made.add_argument("--out", metavar="DIR", default="reports/accept", help="default %(default)s")
    made.add_argument(
        "--profile", choices=PROFILES, default="quick",
        help="gate: under a minute, quick (default): minutes, full: half an hour, burn-in: hours",
    )  # fmt: skip
    made.add_argument("--stages", type=names, metavar="NAME,...", help="only these stages")
    made.add_argument(
        "--exclude",
        type=names,
        metavar="NAME,...",
        default=(),
        help="leave out: a stage, video-decode, an op, a family of ops (attention/, matmul/, "
        "video/), <op>/<case>, <op>/<provider>, a package",
    )
    made.add_argument("--no-bench", action="store_true", help="the same as --exclude bench")
    made.add_argument("--video", metavar="FILE", help="use this clip, not one that is made here")
    made.add_argument("--seed", type=_seed, default=0, help="of the inputs (default 0)")
    made.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="for the benchmarks of one device; what the profile gives them by default",
    )
    made.add_argument(
        "--energy", action=argparse.BooleanOptionalAction,
        help="joules per call too, of a case of each op; in full and burn-in by default",
    )  # fmt: skip
    made.add_argument(
        "--timeout", type=seconds, metavar="SECONDS",
        help=f"{_TIMEOUT} (default {TIMEOUT_S:g} on a GPU, none on a CPU)",
    )  # fmt: skip
    pod = made.add_argument_group("a pod")
    pod.add_argument(
        "--resume", action="store_true", help="go on with the run in --out after a crash"
    )
    pod.add_argument(
        "--expect-gpus", type=_count, metavar="N", help="fail a node that has not N GPUs"
    )
    pod.add_argument(
        "--criteria", metavar="NAME|FILE", help="what to judge by; those of the device by default"
    )
    pod.add_argument(
        "--wait", type=seconds, metavar="SECONDS", default=WAIT_S,
        help="that ranks wait for each other before one counts as missing (default %(default)g)",
    )  # fmt: skip
    pod.add_argument(
        "--sign", metavar="KEY", help="sign the report with this private key; by default unsigned"
    )
    pod.add_argument(
        "--ranks", type=_count, metavar="N", help="with --device cpu: so many ranks, as a rehearsal"
    )
    for part in ACCEPT_PARTS:
        importlib.import_module(f"aimills_kernels.cli.{part}").arguments(made)


def _criteria(commands: Any) -> None:
    text = "what a pod must reach: show, compare and check criteria files"
    made = _command(commands, "criteria", "criteria:run", text)
    importlib.import_module("aimills_kernels.cli.criteria").arguments(made)


def _gpu(commands: Any) -> None:
    made = _command(commands, "gpu", "bench:gpu", "everything that one GPU node is asked for")
    made.add_argument("--out", metavar="DIR", required=True, help="where the records go")
    made.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        default=540.0,
        help="what finds nothing left of it is named as not run (default 540)",
    )
    made.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", default=TIMEOUT_S,
        help=f"{_TIMEOUT} (default {TIMEOUT_S:g})",
    )  # fmt: skip


def _video(commands: Any) -> None:
    text = "decode a video to the tensors that a model takes, and show what the model sees"
    made = _command(
        commands, "video", "video:run", text,
        epilog="example: aimills-kernels video clip.mp4 --preset qwen2.5-vl --preview seen.png",
    )  # fmt: skip
    importlib.import_module("aimills_kernels.cli.video").arguments(made)


def names(text: str) -> list[str]:
    if names := [part.strip() for part in text.split(",") if part.strip()]:
        return list(dict.fromkeys(names))
    raise argparse.ArgumentTypeError(f"{text!r} names nothing; leave it out or give <name>,...")


def device(text: str) -> str:
    if re.fullmatch("auto|cpu|cuda(:[0-9]+)?", text):
        return text
    raise argparse.ArgumentTypeError(
        f"unknown device {text!r}; there are auto, cpu, cuda and cuda:<index>"
    )


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**62:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^62")
    return value


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 99999999")


def _counts(text: str) -> list[int]:
    return [_count(part) for part in names(text)]


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0 and below 1e6"
        )
    return value
