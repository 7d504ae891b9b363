"""Tables of parts: the attention of a block, its MLP, a convolutional block, a stem, a head, each timed alone.

A folder of parts is a latency table like any other (`nas.latency.table`), whose rows are parts and no architectures;
`parts.json` beside it says what each id is. Runtimes that read ONNX can time parts.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Flow
from nas.cost import FEATURES, feature_row
from nas.cost.operators import Operator, parts_at
from nas.errors import RunError, TargetError
from nas.files import write_whole
from nas.latency.measure import measure_archs
from nas.latency.protocol import Effort, Say
from nas.latency.table import TableWriter, read_table
from nas.latency.target import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas.space import SearchSpace

NAMES = "parts.json"
READERS = ("onnxruntime", "openvino")  # runtimes that read ONNX
MOST = 300


@dataclass(frozen=True)
class PartCase:
    """One part with the sizes that make it; parts of equal operators are one case."""

    name: str
    operators: tuple[Operator, ...]
    spec: Any
    flow: Flow
    width: int

    @property
    def id(self) -> str:
        """12 hex digits of its name and operators."""
        return hashlib.sha256(repr((self.name, self.operators)).encode()).hexdigest()[:12]


def parts_of(space: SearchSpace, most: int = MOST, seed: int = 0) -> list[PartCase]:
    """The distinct parts of a space; where there are more than `most`, as many drawn at random, of each kind of part
    its share."""
    found: dict[tuple[str, tuple[Operator, ...]], PartCase] = {}
    for variants in space.variants():
        for spec, flow, width in sorted(variants, key=repr):
            for part in parts_at(spec, flow, width):
                found.setdefault((part.name, part.operators), PartCase(part.name, part.operators, spec, flow, width))
    cases = sorted(found.values(), key=lambda case: (case.name, case.id))
    if len(cases) <= most:
        return cases
    rng = np.random.default_rng(seed)
    kinds = {name: [case for case in cases if case.name == name] for name in dict.fromkeys(case.name for case in cases)}
    taken = [case for kind in kinds.values() for case in _some(kind, max(1, round(most * len(kind) / len(cases))), rng)]
    return taken[:most]


def _some(cases: Sequence[PartCase], n: int, rng: np.random.Generator) -> list[PartCase]:
    return [cases[i] for i in sorted(rng.choice(len(cases), min(n, len(cases)), replace=False))]


def measure_parts(
    space: SearchSpace,
    target: Target,
    out: str | Path,
    *,
    most: int = MOST,
    rng: np.random.Generator,
    effort: Effort | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Say = lambda text: None,
) -> int:
    """Time the parts of a space on a target into the folder `out`; how many it holds then. Repeating the call times
    what is missing. Raises `TargetError` for a runtime that does not read ONNX."""
    if target.runtime not in READERS:
        raise TargetError(f"parts are timed as ONNX files, which {target.runtime} does not read; take {READERS[0]}")
    target.check()
    cases = parts_of(space, most)
    writer = TableWriter(out, target, space, say=say)
    _remember(Path(out) / NAMES, cases)
    missing = [case for case in cases if case.id not in writer.measured]
    with tempfile.TemporaryDirectory() as folder:
        files = [_write(case, Path(folder), target.batch) for case in missing]
        for index, measurement in (
            measure_archs(
                files,
                target,
                rng=rng,
                anchor=space.middle,
                effort=effort,
                reference_ms=writer.reference_ms,
                progress=progress,
                say=say,
            )
            if files
            else ()
        ):
            writer.append(missing[index].id, None, measurement)
    return len(writer.measured)


def read_parts(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (m, len(FEATURES)) and latencies (m,), ms, of the parts in a folder. `RunError` where it is no folder of
    parts, or a row is of none of them."""
    table, names = read_table(path), Path(path) / NAMES
    try:
        features = {name: entry["features"] for name, entry in json.loads(names.read_bytes()).items()}
        rows = [features[part] for part in table.rows["id"]]
        if any(len(row) != len(FEATURES) for row in rows):
            raise ValueError(f"features of a part that are not the {len(FEATURES)} of today")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{names} is missing or lacks a part ({error!r}); measure with --parts again") from None
    return np.array(rows, float), table.rows["latency_ms"].to_numpy(float)


def _remember(path: Path, cases: Sequence[PartCase]) -> None:
    known = json.loads(path.read_bytes()) if path.exists() else {}
    known |= {case.id: {"part": case.name, "features": feature_row(case.operators).tolist()} for case in cases}
    write_whole(path, json.dumps(known, indent=1) + "\n")


def _write(case: PartCase, folder: Path, batch: int) -> Path:
    import torch

    from nas.export.fold import fold_norms
    from nas.export.onnx_file import traced
    from nas.model.parts import PartNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PartNetwork(case.spec, case.flow, case.width, case.name)
    model = traced(fold_norms(network), (batch, *network.input_shape))
    file = folder / f"{case.id}.onnx"
    file.write_bytes(model.SerializeToString())
    return file
