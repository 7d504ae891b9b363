"""What a person at a terminal sees: progress with an ETA on stderr, results on stdout, one JSON object with --json."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from types import TracebackType
from typing import Any

PLAIN_EVERY_S = 5.0


class Console:
    """A listener of the pipeline: a progress bar on a terminal, a line every few seconds elsewhere. While it is
    entered, what libraries print goes to stderr: Ray prints of every worker that it loses."""

    def __init__(self) -> None:
        from rich.console import Console as Rich

        self._rich = Rich(stderr=True, highlight=False)
        self._bar = self._new_bar() if self._rich.is_terminal else None
        self._tasks: dict[str, Any] = {}
        self._plain: dict[str, tuple[float, float, int]] = {}  # stage: when it began, when last said, done at its start

    def __enter__(self) -> Console:
        self._printed = redirect_stdout(sys.stderr)
        self._printed.__enter__()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
        self._printed.__exit__(kind, error, at)

    def say(self, text: str) -> None:
        """One line, above the progress bar where there is one."""
        self._rich.print(text, markup=False, soft_wrap=True)

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Move the bar of a stage; a stage begins anew when it falls back."""
        if self._bar is None:
            self._line(stage, done, total, detail)
            return
        task = self._tasks.get(stage)
        if task is None or done < self._bar.tasks[task].completed:
            task = self._tasks[stage] = self._bar.add_task(stage, total=total, detail="")
        self._bar.update(task, completed=done, total=total, detail=detail)

    def _line(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        begun, said, start = self._plain.get(stage, (now, 0.0, done))
        if done < start or stage not in self._plain:
            begun, said, start = now, 0.0, done
        due = now - said >= PLAIN_EVERY_S or done >= total
        self._plain[stage] = (begun, now if due else said, start)
        if due and total:
            eta = f", {_clock((now - begun) / (done - start) * (total - done))} left" if start < done < total else ""
            self.say(f"{stage}: {done}/{total}{', ' + detail if detail else ''}{eta}")

    def _new_bar(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, TextColumn("{task.fields[detail]}"), console=self._rich)


def emit(as_json: bool, result: dict[str, Any], text: str) -> None:
    """The result of a verb: one JSON object, or text for a person."""
    print(json.dumps(result, allow_nan=False) if as_json else text)
    sys.stdout.flush()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), *(line(row) for row in rows)])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
