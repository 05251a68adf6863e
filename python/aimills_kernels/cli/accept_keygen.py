"""`accept keygen`: a pair of ed25519 keys."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit codes: 0 made, 3 wrong use, as where a key is there: none is overwritten"
    parser.add_argument("folder", metavar="DIR", help="where accept.key and accept.pub go")


def run(options: Namespace) -> int:
    from aimills_kernels.accept import keys
    from aimills_kernels.cli import _ui

    private, public = keys.make(Path(options.folder))
    _ui.say(f"private key: {private} (for its owner alone; keep it off the pod that it judges)")
    _ui.say(f"public key:  {public} (for everyone who verifies)")
    return 0
