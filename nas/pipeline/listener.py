"""How long work tells whoever started it what it is doing. The command line prints it; a library user may ignore it."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Hears what a stage will cost, how far it is, and what a person should know."""

    def say(self, text: str) -> None:
        """One sentence, worth a line of its own."""

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of a stage are finished; the first call of a stage says 0, the last `total`."""


class Silent:
    """Hears and does nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Nothing."""


SILENT: Listener = Silent()
