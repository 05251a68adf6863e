"""`accept sign`: the attestation of a folder."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit codes: 0 signed, 3 it can't be signed; the sentence says why"
    parser.add_argument("folder", metavar="FOLDER", help="with journal/ and the report's files")
    parser.add_argument("--key", metavar="KEY", required=True, help="the private key")
    parser.add_argument(
        "--criteria", metavar="FILE", help="what it was judged by, where that is a file of yours"
    )
    parser.add_argument(
        "--as-test", action="store_true",
        help="sign what is simulated or of a CPU, as a test that can't be taken for a pod's",
    )  # fmt: skip


def run(options: Namespace) -> int:
    from aimills_kernels.accept.journal import Damaged
    from aimills_kernels.accept.sign import sign_folder
    from aimills_kernels.cli import _ui

    try:
        made = sign_folder(
            Path(options.folder), Path(options.key), as_test=options.as_test,
            criteria=Path(options.criteria) if options.criteria else None,
        )  # fmt: skip
    except Damaged as error:
        raise ValueError(f"not signed: {error}") from None
    _ui.say(f"signed: {made}")
    return 0
