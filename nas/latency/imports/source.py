"""The bytes of a file that somebody else published: from a path or an https address, of bounded size."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.error import URLError
from urllib.request import urlopen

from nas.errors import InputError, RunError

LIMIT = 256 * 2**20  # bytes of a file as it is stored
UNPACKED_LIMIT = 1024 * 2**20  # bytes of what it unpacks to
TIMEOUT_S = 60.0
_CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Stream(Protocol):
    """What can be read from in pieces."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Source:
    """A file as it came. name: for messages; content: its bytes, unpacked; sha256: of the bytes as they are stored."""

    address: str
    content: bytes
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address: `hwgpt.csv.gz`."""
        return self.address.rstrip("/").rpartition("/")[2]


def fetch(address: str, sha256: str | None = None) -> Source:
    """The file at a path or an https URL; a URL needs its SHA-256.

    Raises InputError for a digest that is not one or lacks, RunError for a file that cannot be read, is larger than
    `LIMIT`, does not unpack, or has another digest.
    """
    if sha256 is not None and not _DIGEST.fullmatch(sha256.lower()):
        raise InputError(f"sha256 is {sha256!r}, expected 64 hexadecimal digits, as `sha256sum FILE` prints")
    is_url = "://" in address
    if is_url and not address.startswith("https://"):
        raise InputError(f"{address}: expected a path or an https address")
    if is_url and sha256 is None:
        raise InputError(f"{address}: a file from the network needs its digest; add --sha256 HEX")
    stored = _download(address) if is_url else _read(Path(address))
    found = hashlib.sha256(stored).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise RunError(f"{address} has the SHA-256 {found}, expected {sha256.lower()}; nothing was written")
    return Source(address, _unpack(address, stored), found)


def read_limited(stream: Stream, limit: int, name: str) -> bytes:
    """All of a stream; RunError beyond `limit` bytes, before more than that is held."""
    parts, size = [], 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise RunError(f"{name} holds more than {limit / 2**20:.0f} MiB, expected a table of latencies")
        parts.append(chunk)
    return b"".join(parts)


def _download(address: str) -> bytes:
    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:
            if not str(answer.url).startswith("https://"):
                raise RunError(f"{address} leads to {answer.url}, expected an https address")
            return read_limited(answer, LIMIT, address)
    except URLError as error:
        raise RunError(f"{address} cannot be read: {error.reason}; check the address or bring the file") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{address} cannot be read: {error}; repeat the command or bring the file") from None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return read_limited(file, LIMIT, str(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; expected a path or an https address") from None


def _unpack(address: str, stored: bytes) -> bytes:
    if not stored.startswith(_GZIP):
        return stored
    try:
        return read_limited(gzip.open(io.BytesIO(stored)), UNPACKED_LIMIT, address)
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{address} is damaged ({error}); fetch it again") from None
