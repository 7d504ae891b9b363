"""Writing a run: crash-safe, by one process at a time, resumed by asking for it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nas.arch import Arch
from nas.errors import RunError
from nas.runs import front as fronts
from nas.runs.fleet import FRONTS
from nas.runs.journal import Journal, Row, plain, sweep, write_atomic, write_json
from nas.runs.lock import NAME as LOCK
from nas.runs.lock import Lock
from nas.runs.rows import JOURNALS, evaluation_key
from nas.runs.run import FORMAT, Run, read_header, read_state

if TYPE_CHECKING:
    import pandas as pd


class RunDir:
    """A run open for writing, by one process at a time (`run.lock`).

    A new folder begins a run; a folder whose run has equal `inputs` goes on with it, and `resumed` is true. `inputs` is
    what decides the outcome (space, supernet, budgets, searcher, seed, split hashes); `facts` are recorded, never
    compared (versions, host). `RunError`: other inputs, a foreign or unwritable folder, another writer, a damaged row.
    `notes` says what was left out of a torn file, and which versions differ from those the run began with.
    """

    def __init__(self, path: str | Path, inputs: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.inputs: dict[str, Any] = plain(inputs, "the inputs of the run")
        self.facts: dict[str, Any] = plain(facts or {}, "the facts of the run")
        self._lock = _claim(self.path)
        self._journals: dict[str, Journal] = {}
        self._begun_facts: dict[str, Any] = {}
        try:
            self.resumed = self._begin()
            for name, check in JOURNALS.items():
                self._journals[name] = Journal(self.path / f"{name}.jsonl", check)
            self._journals["sessions"] = Journal(self.path / "sessions.jsonl")
            self._journals["sessions"].append({"started": _now(), "facts": self.facts})
        except BaseException:
            self.close()
            raise
        self._evaluated = {evaluation_key(row) for row in self.evaluations()}
        self._rounds = {row["round"] for row in self.rounds()}

    @classmethod
    def reopen(cls, path: str | Path, facts: Mapping[str, Any] | None = None) -> RunDir:
        """Write on in a run that exists, with the inputs it has: for verbs such as verify, that begin no run."""
        return cls(path, read_header(Path(path))["inputs"], facts)

    def _begin(self) -> bool:
        header = self.path / "run.json"
        sweep(self.path)
        if not header.exists():
            created = {"format": FORMAT, "created": _now()}
            write_json(header, created | {"inputs": self.inputs, "facts": self.facts})
            return False
        begun = read_header(self.path)
        if different := _difference(begun["inputs"], self.inputs):
            key, old, new = different
            raise RunError(
                f"{self.path} holds a run with other inputs: {key} is {_short(old)} there and {_short(new)} here; "
                "repeat the command that began it, or give another --out"
            )
        self._begun_facts = begun["facts"]
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told about this run's files."""
        torn = [journal.note for journal in self._journals.values() if journal.note]
        return (*torn, *_changed_versions(self._begun_facts, self.facts))

    def record_evaluation(self, row: Mapping[str, Any]) -> None:
        """Append one accuracy; on the disk when this returns. An architecture is recorded once per split, precision and
        (if given) `weights`; a second time is a `RunError`. Besides the fixed keys a row may carry `macs`, `params` and
        `predicted: {"accuracy", "latency_ms": {TARGET: ms}}`, what was believed before it was paid for."""
        if evaluation_key(row) in self._evaluated:
            raise RunError(
                f"{self.path}: {row.get('arch')} was evaluated before; read evaluations() instead of paying twice"
            )
        self._evaluated.add(evaluation_key(self._journals["evaluations"].append(row)))

    def record_measurement(self, row: Mapping[str, Any]) -> None:
        """Append one latency; on the disk when this returns."""
        self._journals["measurements"].append(row)

    def record_round(self, row: Mapping[str, Any]) -> None:
        """Append what a search round achieved (`round`, `hypervolume`, `evaluated`, ...). A round recorded before stays
        as it is, since a resumed search replays the rounds before it."""
        if row.get("round") not in self._rounds:
            self._rounds.add(self._journals["rounds"].append(row)["round"])

    def evaluations(self) -> list[Row]:
        """Rows so far, in the order they were recorded."""
        return list(self._journals["evaluations"].rows)

    def measurements(self) -> list[Row]:
        """Rows so far, in the order they were recorded."""
        return list(self._journals["measurements"].rows)

    def rounds(self) -> list[Row]:
        """Rows so far, in the order they were recorded."""
        return list(self._journals["rounds"].rows)

    @property
    def stage(self) -> str:
        """The stage reached, `new` before any."""
        return read_state(self.path).stage

    def reach(self, stage: str, **details: Any) -> None:
        """Say that `stage` is reached; `details` stay in state.json under the stage's name."""
        state = read_state(self.path)
        kept = state.details | ({stage: details} if details else {})
        write_json(self.path / "state.json", {"stage": stage, "updated": _now(), "details": kept})

    def write_front(self, front: pd.DataFrame) -> None:
        """Put `front` in the place of front.csv; columns as in `nas.runs.front`."""
        write_atomic(self.path / "front.csv", fronts.to_csv(front))

    def write_members(self, members: Mapping[str, Sequence[str]]) -> None:
        """Put `members` in the place of fronts.json: of several fronts, by name, the ids of their rows."""
        write_json(self.path / FRONTS, members)

    def write_arch(self, arch: Arch) -> Path:
        """Make models/<arch.id>/ with its arch.json; returns the folder."""
        folder = self.path / "models" / arch.id
        if not (folder / "arch.json").exists():
            write_atomic(folder / "arch.json", arch.to_json() + "\n")
        return folder

    def status(self) -> dict[str, Any]:
        """As `Run.status`."""
        return Run(self.path).status()

    def close(self) -> None:
        """Let others write. A process that dies does the same."""
        for journal in self._journals.values():
            journal.close()
        self._lock.release()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _claim(path: Path) -> Lock:
    """Make the folder, refuse a foreign one, see that it can be written, lock it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_folder(path)
        return Lock(path)
    except OSError as error:
        raise RunError(f"cannot write a run to {path}: {error.strerror}; give an --out that can be written") from None


def check_folder(path: Path) -> None:
    """RunError where a run cannot be begun or gone on with since the folder holds other things."""
    names = {item.name for item in path.iterdir()} - {LOCK} if path.is_dir() else set()
    if names and "run.json" not in names and not all(name.endswith(".part") for name in names):
        raise RunError(f"{path} is not empty and holds no run; give another --out")


def _difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Dotted key and both values of the first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            path = f"{where}.{key}" if where else key
            if different := _difference(old.get(key), new.get(key), path):
                return different
        return None
    return None if old == new else (where, old, new)


def _changed_versions(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = begun.get("versions", {}), now.get("versions", {})
    changed = (key for key in old if key in new and old[key] != new[key])
    return [f"this run began with {key} {old[key]} and goes on with {new[key]}" for key in changed]


def _short(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
