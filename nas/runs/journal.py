"""Files that survive `kill -9` and a full disk: append-only JSON lines, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from nas.errors import RunError
from nas.files import PART, sync_folder, whole_file

Row = dict[str, Any]
Check = Callable[[Row], str | None]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST)


class Rows(NamedTuple):
    """What a journal holds: the whole rows, the byte after the last of them, and what was left out, in words."""

    rows: list[Row]
    end: int
    note: str | None


class Journal:
    """Rows of JSON, one a line, each on the disk (fsync) before `append` returns.

    Opening cuts a torn last line off the file and says so in `note`. Any other damage is a `RunError` that names file
    and line. One writer only: the run's lock sees to that.
    """

    def __init__(self, path: Path, check: Check | None = None) -> None:
        self.path = path
        self._check = check
        self.rows, self._end, self.note = read_rows(path, check)
        with _storage(path):
            fresh = not path.exists()
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)
            if fresh:
                sync_folder(path.parent)

    def append(self, row: Mapping[str, Any]) -> Row:
        """Write one row and return it as it will be read again. `RunError`: NaN or infinity in it, or no room on the
        disk; the file then ends with its last whole row."""
        line = (_dumps(row, str(self.path)) + "\n").encode()
        kept: Row = json.loads(line)
        if self._check and (fault := self._check(kept)):
            raise RunError(f"{self.path}: the row was refused: {fault}")
        try:
            _write_at(self._fd, line, self._end)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
                os.fsync(self._fd)
            _fail(self.path, error, "the file ends with its last whole row")
        self._end += len(line)
        self.rows.append(kept)
        return kept

    def close(self) -> None:
        """Give the file back; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_rows(path: Path, check: Check | None = None) -> Rows:
    """The rows of a journal, none where there is no such file. `check` says what is wrong with a row, if anything.

    A row counts once its line is ended: whatever follows the last newline was never acknowledged and is left out, as is
    a last line with zero bytes in it, which is what a power cut leaves of a page that was not written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Rows([], 0, None)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from None
    lines = content.split(b"\n")
    torn = lines.pop()
    if not torn and lines and b"\0" in lines[-1]:
        torn = lines.pop() + b"\n"
    rows = [_parse(line, path, number, check) for number, line in enumerate(lines, start=1)]
    note = f"{path.name}: the last line ({len(torn)} bytes) was cut short and is left out" if torn else None
    return Rows(rows, len(content) - len(torn), note)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is fsync'd and takes `path`'s place, otherwise it is
    removed and `path` is what it was. The folder is made if need be. `RunError`: full or read-only disk."""
    with _storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            yield part


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the whole file or nothing (temporary name, fsync, rename, fsync of the folder); text is UTF-8."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` for readable JSON; NaN and infinity are refused with a `RunError`."""
    write_atomic(path, _dumps(value, str(path), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file; `RunError` where it is missing, damaged, or holds NaN or infinity."""
    try:
        return _loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not readable JSON ({error}); restore it, or start another run") from None


def plain(value: Any, where: str) -> Any:
    """The value as JSON gives it back: tuples as lists, NumPy numbers as Python's. `RunError` on NaN or infinity."""
    return json.loads(_dumps(value, where))


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a run; call it with the run's lock held."""
    for part in folder.rglob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _parse(line: bytes, path: Path, number: int, check: Check | None) -> Row:
    try:
        row = _loads(line)
        fault = check(row) if check and isinstance(row, dict) else None
    except (ValueError, RecursionError) as error:
        row, fault = None, str(error)
    if fault or not isinstance(row, dict):
        raise RunError(
            f"{path}, line {number}: {fault or 'not a JSON object'}; the file was changed or damaged: mend or delete "
            "that line, or start another run"
        )
    return row


def _loads(text: bytes) -> Any:
    return json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number a run can hold")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _dumps(value: Any, where: str, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, allow_nan=False, default=_numpy, indent=indent, separators=separators)
    except ValueError:
        raise RunError(
            f"{where}: {_find_nan(value, '')} is NaN or infinite; only finite numbers are recorded"
        ) from None
    except TypeError as error:
        raise RunError(f"{where}: not expressible as JSON ({error}); record numbers, texts, lists and dicts") from None


def _numpy(value: Any) -> Any:
    """NumPy scalars and arrays as Python values, without importing NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r:.40}")


def _find_nan(value: Any, where: str) -> str | None:
    """The dotted path of the first number that is not finite."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isfinite(value) else where or "the value"
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (_find_nan(item, f"{where}.{key}" if where else str(key)) for key, item in items)
    return next((path for path in found if path), None)


def _write_at(fd: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or error.errno in _CLOSED or error.errno == errno.EIO:
            _fail(path, error, "nothing was left half-written")
        raise


def _fail(path: Path, error: OSError, kept: str) -> NoReturn:
    remedy = (
        "choose a folder that can be written" if error.errno in _CLOSED else "free some space, then repeat the command"
    )
    reason = "the disk is full" if error.errno in _FULL else os.strerror(error.errno or 0)
    raise RunError(f"cannot write {path}: {reason}; {kept}; {remedy}") from None
