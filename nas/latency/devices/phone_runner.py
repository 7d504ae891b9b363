"""A user's binary that runs networks of one runtime on a phone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.errors import TargetError

_MACHINES = {(1, 3): "x86", (1, 40): "armeabi-v7a", (2, 62): "x86_64", (2, 183): "arm64-v8a"}
"""Android's names of what the headers of ELF files say: 32 or 64 bits, and the machine."""


@dataclass(frozen=True)
class PhoneRunner:
    """path: the binary, on this machine. libraries: shared ones that it needs beside it. version: what its user says of
    it; the tools themselves say none."""

    path: Path
    libraries: tuple[Path, ...] = ()
    version: str = ""

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the content of all files. `TargetError` where one cannot be read."""
        found = hashlib.sha256()
        for file in (self.path, *self.libraries):
            found.update(hashlib.sha256(_content(file)).digest())
        return found.hexdigest()[:12]

    @property
    def key(self) -> str:
        """The version of the runtime, as latencies are told apart by it: another build is another one."""
        return f"{self.version}+{self.digest}" if self.version else f"build-{self.digest}"

    def check(self, abis: Sequence[str] | None, phone: str) -> None:
        """`TargetError` where the phone runs no binaries of this kind; whatever is no ELF file may be a script."""
        for file in (self.path, *self.libraries):
            head = _content(file)[:20]
            if abis is None or head[:4] != b"\x7fELF" or len(head) < 20:
                continue
            kind = (head[4], int.from_bytes(head[18:20], "little"))
            found = _MACHINES.get(kind, f"machine {kind[1]}")
            if found not in abis:
                raise TargetError(
                    f"{file.name} is built for {found}, but {phone} runs {', '.join(abis)}; build it for that"
                )

    def to_table(self) -> dict[str, Any]:
        """Plain values by name."""
        libraries = [str(library) for library in self.libraries]
        return {"runner": str(self.path), "libraries": libraries, "version": self.version}

    @classmethod
    def from_table(cls, runtime: str, table: dict[str, Any]) -> PhoneRunner:
        """From those values, each with the runtime in its name."""
        libraries = tuple(Path(library) for library in table[f"libraries_{runtime}"])
        return cls(Path(table[f"runner_{runtime}"]), libraries, table[f"version_{runtime}"])


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TargetError(f"{file} cannot be read: {error.strerror}; name the runner's files: --runner PATH") from None
