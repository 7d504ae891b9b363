"""One writer a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nas.errors import RunError

NAME = "run.lock"
_TRIES, _PAUSE_S = 10, 0.05  # outlasts a reader that asks `is_locked`, and children that die with a killed parent


class Lock:
    """An advisory lock (`flock`) on a run's folder; the kernel releases it when its process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not _take(self._fd):
            holder = os.pread(self._fd, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise RunError(f"{folder} is being written by process {holder}; wait for it to end, or give another --out")
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others write; releasing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_locked(folder: Path) -> bool:
    """Whether some process is writing the run now."""
    import fcntl

    try:
        fd = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _take(fd: int) -> bool:
    import fcntl

    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_PAUSE_S)
    return False
