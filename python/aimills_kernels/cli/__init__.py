"""The command line: `aimills-kernels`, also `python -m aimills_kernels`.

Exit codes: 0 all is well, 1 something is wrong, 2 what could have run did not, 3 wrong use, 130
stopped by Ctrl-C, 141 left by the reader of its output. A user sees one sentence and no traceback;
AIMILLS_DEBUG=1 shows the traceback too. The parser imports neither torch nor rich.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from aimills_kernels.cli._errors import (
    INCOMPLETE,
    INTERRUPTED,
    NO_READER,
    OK,
    WRONG_USE,
    UsageError,
)
from aimills_kernels.cli._parser import build_parser, joined


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    code = _guarded(argv)
    _settle(sys.stdout)
    _settle(sys.stderr)
    return code


def _settle(stream: TextIO) -> None:
    """Drop what can't be written, or Python would complain of it at its exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        code = _command(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("interrupted; nothing was left half-written", INTERRUPTED)
    except BrokenPipeError:  # `| head` for one
        return NO_READER
    except UsageError as error:
        return _say(str(error), WRONG_USE)
    except ModuleNotFoundError as error:
        return _missing_module(error)
    except ValueError as error:  # the library's way of naming a wrong argument
        return _say(_one_line(error), WRONG_USE)
    except Exception as error:
        return _say(f"did not finish: {_described(error)}", INCOMPLETE)


def _command(argv: Sequence[str] | None) -> int:
    try:
        words = joined(sys.argv[1:] if argv is None else argv)
        options = build_parser().parse_args(words)
        options.words = words  # for a command that starts itself again
    except SystemExit:  # --help and --version
        return OK
    module, _, function = options.run.partition(":")
    return int(getattr(importlib.import_module(module), function)(options))


def _missing_module(error: ModuleNotFoundError) -> int:
    name = (error.name or str(error)).partition(".")[0]
    if name == "aimills_kernels":
        return _say(f"this installation is damaged: {_one_line(error)}", INCOMPLETE)
    return _say(f"this command needs the package {name!r}, which is not installed", WRONG_USE)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {_one_line(error)}"


def _say(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the exit code says it too
        if os.environ.get("AIMILLS_DEBUG") == "1":
            traceback.print_exc()
        print(f"aimills-kernels: {sentence}", file=sys.stderr)
    return code
