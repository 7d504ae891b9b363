"""The command `nas`: one verb per stage. It parses, calls `nas.pipeline`, and prints."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Any, TextIO

from nas.errors import InputError, NasError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors and warnings are one line each on stderr."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    import typer

    from nas.cli.app import app

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # Older typer raises Abort on Ctrl-C, newer hands back the exit code that it would have ended with.
        if app(args=arguments, prog_name="nas", standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except _usage_error() as error:
        return _fail(_misuse(error), BAD_INPUT)
    except NasError as error:
        return _fail(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; repeat the command to go on", INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout went away, as `head` does: nothing to report, and nobody to report it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _fail(f"no space left for {error.filename or 'output'}; free some and repeat the command", FAILED)
        raise
    return 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"nas: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _usage_error() -> type[Exception]:
    """The class of everything that typer says about a command line. Newer typer carries a copy of click whose classes
    are not those of the click that is installed, so it is looked up from a name that typer itself hands out."""
    import typer

    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _misuse(error: Any) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "nas"
    return f"{error.format_message().rstrip('.') or 'which verb?'}; see {where} --help"


def _fail(message: str, code: int) -> int:
    print(f"nas: {' '.join(message.split())}", file=sys.stderr)
    return code


def script() -> None:
    """The console script."""
    sys.exit(main())
