"""Reading a run directory.

run.json            format, frozen inputs, facts of the process that began it
sessions.jsonl      one row for every process that wrote: when, and its facts
state.json          the stage reached, and what each stage had to say
evaluations.jsonl   every accuracy that was paid for
measurements.jsonl  every latency that was paid for, raw rounds kept
rounds.jsonl        one row a search round: hypervolume and whatever else the search reports
front.csv           one row per accepted architecture (columns in `nas.runs.front`)
fronts.json         where there is a front for each target: the ids of its rows
models/<arch.id>/   arch.json, weights.safetensors as inherited, finetuned.safetensors where it was finetuned, card.md
finetune/<arch.id>/ trainings of `nas finetune`, a folder for each trial
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.arch import Arch
from nas.errors import RunError
from nas.runs import front as fronts
from nas.runs.fleet import FrontOf, front_of, fronts_of
from nas.runs.journal import Row, read_json, read_rows
from nas.runs.lock import is_locked
from nas.runs.rows import EVALUATION, INHERITED, JOURNALS, MEASUREMENT, PHASES, ROUND

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.budgets import Budget

FORMAT = 1


class State(NamedTuple):
    """The stage a run reached, when, and what each stage had to say."""

    stage: str
    updated: str | None
    details: dict[str, Any]


class Run:
    """A run to read. Files are read when first asked for, so a run that is being written can be looked at, too."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        header = read_header(self.path)
        self.created: str = header["created"]
        self.inputs: dict[str, Any] = header["inputs"]
        self.facts: dict[str, Any] = header["facts"]

    @cached_property
    def front(self) -> pd.DataFrame:
        """One row an architecture, columns as in `nas.runs.front`; empty before the search has ended."""
        path = self.path / "front.csv"
        return fronts.from_csv(path) if path.exists() else fronts.from_rows([])

    @cached_property
    def fronts(self) -> tuple[FrontOf, ...]:
        """One front of all targets, or one for each; `front` holds the rows of all."""
        return fronts_of(self)

    def front_on(self, target: str) -> pd.DataFrame:
        """The rows of `front` that are on the front of a target."""
        return front_of(self, target).rows(self.front)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row an accuracy that was paid for."""
        return self._frame("evaluations", EVALUATION)

    @property
    def searched(self) -> pd.DataFrame:
        """The evaluations that a search paid for: on its split, with inherited weights."""
        rows = self.evaluations
        weights = rows["weights"].fillna(INHERITED) if "weights" in rows else INHERITED
        return rows[(rows["split"] == "search") & (weights == INHERITED)]

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """One row a latency that was paid for."""
        return self._frame("measurements", MEASUREMENT)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row a search round."""
        return self._frame("rounds", ROUND)

    @cached_property
    def sessions(self) -> list[Row]:
        """One row for every process that wrote the run: `started`, `facts`."""
        return read_rows(self.path / "sessions.jsonl").rows

    @cached_property
    def budgets(self) -> list[Budget]:
        """The budgets the run was asked to keep."""
        from nas.search.budgets import parse_budget

        return [parse_budget(text) for text in self.inputs.get("budgets", [])]

    @property
    def predicted_only(self) -> list[str]:
        """Targets that could not be measured where the run was made: their latencies are predictions."""
        return list(self.inputs.get("predicted_only", []))

    @property
    def measured_budgets(self) -> list[Budget]:
        """The budgets that can be held against a measurement: all but those on targets that are predicted only."""
        return [budget for budget in self.budgets if budget.target not in self.predicted_only]

    @property
    def stage(self) -> str:
        """The stage reached, `new` before any."""
        return read_state(self.path).stage

    @property
    def details(self) -> dict[str, Any]:
        """What each stage had to say when it was reached, by stage."""
        return read_state(self.path).details

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of a torn file, if anything."""
        read = (read_rows(self.path / f"{name}.jsonl", check) for name, check in JOURNALS.items())
        return tuple(rows.note for rows in read if rows.note)

    def status(self) -> dict[str, Any]:
        """Stage, counts, whether a process is writing it now, and notes."""
        phases = self.measurements["phase"].value_counts()
        return {
            "run": str(self.path),
            "stage": self.stage,
            "created": self.created,
            "updated": read_state(self.path).updated,
            "running": is_locked(self.path),
            "rounds": len(self.rounds),
            "evaluated": len(self.searched),
            "measured": len(self.measurements),
            "phases": {phase: int(phases.get(phase, 0)) for phase in PHASES},
            "front": len(self.front),
            "fronts": {front.name: len(front.rows(self.front)) for front in self.fronts if front.name},
            "notes": list(self.notes),
        }

    def arch(self, arch_id: str) -> Arch:
        """The architecture of that id: from models/, else decoded from a recorded genotype. `RunError` if unknown."""
        if not re.fullmatch(r"[0-9a-f]{12}", arch_id):
            raise RunError(
                f"{arch_id!r:.40} is no architecture id, expected 12 hex digits; see `nas pareto {self.path}`"
            )
        file = self.path / "models" / arch_id / "arch.json"
        if file.exists():
            return Arch.from_json(file.read_text(encoding="utf-8"))
        return self._decode(arch_id)

    def _decode(self, arch_id: str) -> Arch:
        for rows in (self.evaluations, self.measurements):
            known = rows[rows["arch"] == arch_id]
            if len(known):
                arch = _decode(self.inputs.get("space", {}), known.iloc[0]["genotype"])
                if arch.id != arch_id:
                    raise RunError(
                        f"{self.path}: the genotype recorded for {arch_id} decodes to {arch.id}; the run is damaged"
                    )
                return arch
        raise RunError(f"{self.path} knows no architecture {arch_id}; see `nas pareto {self.path}` for those it has")

    def _frame(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        import pandas as pd

        rows = read_rows(self.path / f"{name}.jsonl", JOURNALS[name]).rows
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def load_run(path: str | Path) -> Run:
    """Open a run for reading; `RunError` where there is none."""
    return Run(path)


def read_header(path: Path) -> dict[str, Any]:
    """run.json: `format`, `created`, `inputs`, `facts`; `RunError` where it is missing, damaged or foreign."""
    file = path / "run.json"
    if not file.is_file():
        raise RunError(f"{path} holds no run (no run.json); give the folder that `nas search --out` wrote")
    header = read_json(file)
    if not isinstance(header, dict) or not {"format", "created", "inputs", "facts"} <= set(header):
        raise RunError(f"{file} is not the header of a run; restore it, or start another run")
    if header["format"] != FORMAT:
        raise RunError(
            f"{file} has format {header['format']!r}, expected {FORMAT}; read it with the version that wrote it"
        )
    return header


def read_state(path: Path) -> State:
    """state.json; the stage is `new` where there is none yet."""
    file = path / "state.json"
    state = read_json(file) if file.exists() else {}
    if not isinstance(state, dict):
        raise RunError(f"{file} is not the state of a run; delete it to go on from the recorded rows")
    return State(state.get("stage", "new"), state.get("updated"), state.get("details", {}))


def _decode(space: Mapping[str, Any], genotype: Sequence[int]) -> Arch:
    """One recorded genotype under the space whose TOML text the run keeps."""
    import tomllib
    from dataclasses import replace

    import numpy as np

    from nas.space import SearchSpace
    from nas.space.schema import parse_spec

    try:
        spec = parse_spec(tomllib.loads(space["toml"]))
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"run.json holds no readable search space ({error}); restore it, or start another run") from None
    classes = space.get("num_classes") or spec.num_classes
    return SearchSpace(replace(spec, num_classes=classes)).decode(np.asarray([genotype], dtype=np.int16))[0]
