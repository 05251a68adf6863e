"""`accept verify`: is this folder what was signed, and does its report follow?"""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit codes: 0 genuine and complete (whatever its verdict), 1 something was changed or "
        "does not match, 2 something could not be verified, 3 wrong use"
    )
    parser.add_argument("folder", metavar="FOLDER", help="with journal/ and the report's files")
    parser.add_argument("--key", metavar="PUB", help="the public key of who signed it")
    parser.add_argument(
        "--criteria", metavar="FILE", help="what it was judged by, where that is a file of yours"
    )
    parser.add_argument(
        "--as-test", action="store_true", help="take the signature of a test for what it is"
    )


def run(options: Namespace) -> int:
    from aimills_kernels.accept.criteria import load
    from aimills_kernels.accept.verify import verify
    from aimills_kernels.cli import _ui

    if options.criteria:
        load(options.criteria)
    found = verify(
        Path(options.folder), Path(options.key) if options.key else None,
        criteria=Path(options.criteria) if options.criteria else None, as_test=options.as_test,
    )  # fmt: skip
    for text in found.said:
        _ui.say(text, "green")
    for text in found.open:
        _ui.say(f"not verified: {text}", "yellow")
    for text in found.untrue:
        _ui.say(f"WRONG: {text}", "bold red")
    if found.beside:
        _ui.say(f"not covered by the signature: {', '.join(found.beside)}", "yellow")
    if found.headline and not found.untrue:
        _ui.say(f"its verdict: {found.headline}")
    _ui.say(("genuine", "NOT GENUINE", "not verified in full")[found.code])
    return found.code
