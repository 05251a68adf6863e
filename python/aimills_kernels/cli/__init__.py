"""The command line: `aimills-kernels`, also `python -m aimills_kernels`.

Exit codes: 0 all is well, 1 something is wrong, 2 something did not run, 3 wrong use, 130 stopped
by Ctrl-C. A user sees one sentence and no traceback; AIMILLS_DEBUG=1 shows the traceback too. The
parser imports neither torch nor rich.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from aimills_kernels.cli._errors import INCOMPLETE, INTERRUPTED, WRONG_USE, UsageError
from aimills_kernels.cli._parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        module, _, function = options.run.partition(":")
        code = getattr(importlib.import_module(module), function)(options)
        sys.stdout.flush()
        return int(code)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _say("interrupted; nothing was left half-written", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away, `| head` for one; stdout is replaced so that the exit is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as error:
        return _say(str(error), WRONG_USE)
    except ModuleNotFoundError as error:
        return _missing_module(error)
    except ValueError as error:  # the library's way of naming a wrong argument
        return _say(_one_line(error), WRONG_USE)
    except Exception as error:
        return _say(f"did not finish: {type(error).__name__}: {_one_line(error)}", INCOMPLETE)


def _missing_module(error: ModuleNotFoundError) -> int:
    name = (error.name or str(error)).partition(".")[0]
    if name == "aimills_kernels":
        return _say(f"this installation is damaged: {_one_line(error)}", INCOMPLETE)
    return _say(f"this command needs the package {name!r}, which is not installed", WRONG_USE)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _say(sentence: str, code: int) -> int:
    if os.environ.get("AIMILLS_DEBUG") == "1":
        traceback.print_exc()
    print(f"aimills-kernels: {sentence}", file=sys.stderr)
    return code
