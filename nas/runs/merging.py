"""Several runs of one supernet as one run: all that was paid for, and the front of all fronts.

Within a run the search has weighed rows against one another, with beliefs that `front.csv` holds the outcome of. So a
row leaves the merged front only where a row that it never stood beside in any run is better: no more error, no more of
any cost, and less of one. Merging a run with copies of itself changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import RunError
from nas.files import PART, sync_folder
from nas.runs import front as fronts
from nas.runs.alike import TIMES, check_mergeable, on_scale, open_runs, references, scales
from nas.runs.fleet import ACCURACY, FRONTS, FrontOf, objectives_of
from nas.runs.journal import Row, read_json, read_rows, write_atomic, write_json
from nas.runs.rows import JOURNALS, evaluation_key, is_searched
from nas.runs.run import FORMAT, Run, read_header
from nas.runs.volume import cost_of, recorded_reference, scaled

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.budgets import Budget

SLOWER = 0.05  # of an anchor than its reference, from which a measurement is disturbed (`nas.latency.measure`)


class Merged(NamedTuple):
    """path: of the run; front, evaluated, measured: its rows; repeated: evaluations that several runs had paid for;
    dominated: rows of fronts that another run is better than; rescaled: by run and target, what latencies were
    multiplied by where that is not 1."""

    path: Path
    front: int
    evaluated: int
    measured: int
    repeated: int
    dominated: int
    rescaled: dict[str, dict[str, float]]


def merge_runs(paths: Sequence[str | Path], out: str | Path, finish: Callable[[Path], None]) -> Merged:
    """Write the union of runs into the folder `out`, which appears whole or not at all; `finish` is given the folder
    before it gets its name.

    A folder that holds the same merge already is left as it is. RunError where runs differ in space, supernet, data
    splits, precision, targets, processor or versions of runtimes, or `out` holds something else.
    """
    # By age, so that the order in which they are named decides nothing.
    runs = dict(sorted(open_runs(paths).items(), key=lambda named: (named[1].created, named[0])))
    out = Path(out)
    check_mergeable(runs)
    inputs = _inputs(runs)
    if out.exists() and any(out.iterdir()):
        return _there(out, inputs)
    part = out.resolve().with_name(f".{out.resolve().name}{PART}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        made = _write(runs, part, inputs)
        finish(part)
        if out.exists():
            out.rmdir()
        part.rename(out.resolve())
        sync_folder(out.resolve().parent)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; give an --out that can be written") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made._replace(path=out)


def _there(out: Path, inputs: Mapping[str, Any]) -> Merged:
    if not (out / "run.json").exists() or read_header(out)["inputs"] != inputs:
        raise RunError(f"{out} is there already and does not hold this merge; give another --out")
    return Merged(out, **read_json(out / "state.json")["details"]["merged"]["counts"])


def _inputs(runs: Mapping[str, Run]) -> dict[str, Any]:
    """What the runs have in common, the loosest of each budget that all have, and what each of them was."""
    first = next(iter(runs.values())).inputs
    common = {
        name: first[name] for name in ("space", "supernet", "data", "judged_on", "predicted_only") if name in first
    }
    merged = {name: _origin(run) for name, run in runs.items()}
    budgets = _loosest([run.budgets for run in runs.values()])
    fronts = {"fronts": _aims(runs)} if "fronts" in first else {}
    return common | {"budgets": budgets, "merged": merged} | fronts


def _aims(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Of each front its name, the loosest budgets of its rows, and what it trades."""
    return [
        {
            "name": front.name,
            "budgets": _loosest([_same_front(run, front).budgets for run in runs.values()]),
            "objectives": list(front.objectives),
        }
        for front in next(iter(runs.values())).fronts
    ]


def _same_front(run: Run, front: FrontOf) -> FrontOf:
    """The front of another run that is for the same."""
    return next(other for other in run.fronts if other.name == front.name)


def _origin(run: Run) -> dict[str, Any]:
    asked = {name: run.inputs.get(name) for name in ("searcher", "evaluations", "seed", "budgets", "merged")}
    files = [run.path / name for name in ("evaluations.jsonl", "measurements.jsonl", "front.csv")]
    content = b"".join(file.read_bytes() for file in files if file.exists())
    about = {"created": run.created, "digest": hashlib.sha256(content).hexdigest()[:16]}
    return about | {name: value for name, value in asked.items() if value is not None}


def _loosest(asked: Sequence[Sequence[Budget]]) -> list[str]:
    """A row keeps the budgets of its own run, so of all rows the loosest can be said."""
    by_key = [{budget.column: budget for budget in budgets} for budgets in asked]
    shared = [key for key in by_key[0] if all(key in known for known in by_key)]
    found = [sorted((known[key] for known in by_key), key=lambda budget: budget.limit) for key in shared]
    return [str(same[-1] if same[0].op == "<=" else same[0]) for same in found]


def _write(runs: Mapping[str, Run], folder: Path, inputs: dict[str, Any]) -> Merged:
    factors = scales(runs)
    tables = {name: on_scale(run.front, factors[name]) for name, run in runs.items()}
    owners = _owners(tables)
    evaluations, repeated = _evaluations(runs, owners)
    measurements = _measurements(runs, factors)
    first = next(iter(runs.values()))
    keys = objectives_of(first)
    every = _every_row(tables, owners)
    members = {}
    for aim in first.fronts:
        on_it = {name: set(_same_front(run, aim).rows(tables[name])["id"]) for name, run in runs.items()}
        members[aim.name] = _joint(every, on_it, aim.objectives)
    chosen = {arch for ids in members.values() for arch in ids}
    front = every[every["id"].isin(chosen)].sort_values("macs", kind="stable").reset_index(drop=True)
    owners = {arch: owners[arch] for arch in front["id"]}
    facts = first.facts
    counts: dict[str, Any] = {
        "front": len(front),
        "evaluated": sum(map(is_searched, evaluations)),
        "measured": len(measurements),
        "repeated": repeated,
        "dominated": len({i for table in tables.values() for i in table["id"]}) - len(front),
        "rescaled": _changed(factors),
    }
    _lines(folder / "evaluations.jsonl", evaluations)
    _lines(folder / "measurements.jsonl", measurements)
    _lines(folder / "sessions.jsonl", [{"started": _now(), "facts": facts}])
    write_atomic(folder / "front.csv", fronts.to_csv(front))
    if len(members) > 1:
        write_json(folder / FRONTS, members)
    for arch, name in owners.items():
        shutil.copytree(runs[name].path / "models" / arch, folder / "models" / arch)
    for name, run in runs.items():
        _copy_predictors(run, folder, name)
    merged = {"counts": counts, "rows_of": owners, "reference": _reference(runs, factors)}
    details = {"calibrated": {"objectives": keys}, "merged": merged}
    write_json(folder / "state.json", {"stage": "merged", "updated": _now(), "details": details})
    write_json(folder / "run.json", {"format": FORMAT, "created": _now(), "inputs": inputs, "facts": facts})
    return Merged(folder, **counts)


def _changed(factors: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Without the factors of 1."""
    other = {name: {target: f for target, f in known.items() if f != 1} for name, known in factors.items()}
    return {name: known for name, known in other.items() if known}


def _owners(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """The run whose row and weights stand for an architecture of any front: the best finetuned, a verified one, the
    oldest."""
    best: dict[str, tuple[tuple[float, int], str]] = {}
    for name, table in tables.items():
        verified = [column for column in table if str(column).endswith("].verified")]
        for arch, finetuned, checked in zip(
            table["id"], table["accuracy_finetuned"].fillna(-1), table[verified].notna().any(axis=1), strict=True
        ):
            rank = float(finetuned), int(checked)
            if arch not in best or rank > best[arch][0]:
                best[arch] = rank, name
    return {arch: name for arch, (_, name) in best.items()}


def _every_row(tables: Mapping[str, pd.DataFrame], owners: Mapping[str, str]) -> pd.DataFrame:
    """The rows of all fronts of all runs, each once, as its owner has it."""
    import pandas as pd

    own = [table[[owners[arch] == name for arch in table["id"]]] for name, table in tables.items()]
    return fronts.tidy(pd.concat([part.dropna(axis=1, how="all") for part in own if len(part)], ignore_index=True))


def _joint(every: pd.DataFrame, on_it: Mapping[str, set[str]], keys: Sequence[str]) -> list[str]:
    """The ids on the joint front of several, given by run: without those that a row of another run is better than."""
    rows = every[every["id"].isin(set().union(*on_it.values()))]
    members = {arch: {name for name, ids in on_it.items() if arch in ids} for arch in rows["id"]}
    points = _weighed(rows, keys)
    return [
        arch
        for i, arch in enumerate(rows["id"])
        if not any(
            not members[arch] & members[other] and (points[j] <= points[i]).all() and (points[j] < points[i]).any()
            for j, other in enumerate(rows["id"])
        )
    ]


def _weighed(front: pd.DataFrame, keys: Sequence[str]) -> Any:
    """What rows are weighed by, (n, k): costs, and error as believed, or finetuned where every row is."""
    import numpy as np

    names = ("accuracy_predicted", "accuracy_inherited")
    accuracy = front[names[0]].astype(float).fillna(front[names[1]].astype(float))
    if front["accuracy_finetuned"].notna().all():
        accuracy = front["accuracy_finetuned"].astype(float)
    return np.stack([1 - accuracy if key == ACCURACY else cost_of(front, key) for key in keys], axis=1)


def _evaluations(runs: Mapping[str, Run], owners: Mapping[str, str]) -> tuple[list[Row], int]:
    """Every evaluation once, with the runs that paid for it; that of the owner stands. And how many were repeats."""
    found: dict[tuple[Any, ...], Row] = {}
    repeated = 0
    for name, row in _rows(runs, "evaluations"):
        key, source = evaluation_key(row), _source(name, row)
        if key not in found:
            found[key] = row | {"from": source}
            continue
        repeated += 1
        stands = row if owners.get(row["arch"]) == name else found[key]
        found[key] = stands | {"from": found[key]["from"] + source}
    return list(found.values()), repeated


def _measurements(runs: Mapping[str, Run], factors: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Every measurement, on one scale, with the run that made it; repeats of a phase are counted on."""
    found: list[Row] = []
    taken: set[tuple[Any, ...]] = set()
    anchors = {name: references(run) for name, run in runs.items()}
    for name, row in _rows(runs, "measurements"):
        factor = factors[name].get(row["target"], 1.0)
        row = _rescaled(row, factor, anchors[name]) | {"from": _source(name, row)}
        while (key := (row["arch"], row["target"], row["phase"], row.get("repeat", 0))) in taken:
            row["repeat"] = row.get("repeat", 0) + 1
        taken.add(key)
        found.append(row)
    return found


def _rescaled(row: Row, factor: float, anchors: Mapping[tuple[str, str], float]) -> Row:
    """Disturbed as well where its session would have been, had the smaller reference been known to it."""
    if factor == 1 or (row["target"], row.get("anchor")) not in anchors:
        return row
    times = {name: row[name] * factor for name in TIMES if row.get(name) is not None}
    slow = row["anchor_ms"] > (1 + SLOWER) * times["reference_ms"]
    return row | times | {"disturbed": bool(row["disturbed"] or slow), "rescaled": factor}


def _rows(runs: Mapping[str, Run], journal: str) -> Iterator[tuple[str, Row]]:
    for name, run in runs.items():
        for row in read_rows(run.path / f"{journal}.jsonl", JOURNALS[journal]).rows:
            yield name, row


def _source(name: str, row: Row) -> list[str]:
    """The run of a row; of a row that was merged before, the runs in it."""
    return [f"{name}/{inner}" for inner in row["from"]] if "from" in row else [name]


def _reference(runs: Mapping[str, Run], factors: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
    """The greatest of each number that the searches recorded; None where one recorded none."""
    found = []
    for name, run in runs.items():
        if (recorded := recorded_reference(run)) is None:
            return None
        found.append(scaled(recorded, factors[name]))
    return {key: max(reference[key] for reference in found) for key in found[0]}


def _copy_predictors(run: Run, folder: Path, name: str) -> None:
    for header in sorted((run.path / "predictors").glob("*/predictor.json")):
        place = folder / "predictors" / f"{Path(name).name}_{header.parent.name}"
        while place.exists():
            place = place.with_name(f"{place.name}_")
        shutil.copytree(header.parent, place)


def _lines(path: Path, rows: Sequence[Row]) -> None:
    write_atomic(path, "".join(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n" for row in rows))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
