"""Processes of this project's own modules, which are spoken to by lines."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO


def start(module: str, *arguments: str, threads: int, errors: IO[str] | int) -> subprocess.Popen[str]:
    """`python -m MODULE ARGUMENTS` with pipes to its stdin and from its stdout; what it prints on stderr goes to
    `errors`."""
    environment = os.environ | {
        # The modules of this process from where it has them, and none from the current folder that it has not (-P).
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-P", "-m", module, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment)
