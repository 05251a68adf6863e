"""`accept merge`: the report of a run from its journals alone. Needs no torch."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from aimills_kernels.cli._errors import UsageError


def arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("folder", metavar="FOLDER", help="holds journal/*.jsonl of every rank")
    made.add_argument("--criteria", metavar="NAME|FILE", help="judge by these, not the run's")


def run(options: Namespace) -> int:
    from aimills_kernels.accept import judged
    from aimills_kernels.accept.criteria.lint import sound
    from aimills_kernels.accept.judged import NO_RUN, no_run
    from aimills_kernels.cli._outcome import tell

    if options.criteria:
        sound(options.criteria)
    folder = Path(options.folder)
    try:
        outcome = judged.merge(folder, options.criteria)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    except NO_RUN as error:
        raise UsageError(no_run(folder, error)) from error
    return tell(outcome, folder)
