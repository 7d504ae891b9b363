"""The command `nas`: one verb per stage. It parses, calls `nas.pipeline`, and prints."""

from __future__ import annotations

import errno
import os
import sys

from nas.errors import InputError, NasError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line on stderr."""
    import click

    from nas.cli.app import app

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        app(args=arguments, prog_name="nas", standalone_mode=False)
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except click.exceptions.Abort:
        return _fail("interrupted; repeat the command to go on", INTERRUPTED)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "nas"
        return _fail(f"{error.format_message()}; see {where} --help", BAD_INPUT)
    except NasError as error:
        return _fail(str(error), FAILED)
    except KeyboardInterrupt:
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


def _fail(message: str, code: int) -> int:
    print(f"nas: {' '.join(message.split())}", file=sys.stderr)
    return code


def script() -> None:
    """The console script."""
    sys.exit(main())
