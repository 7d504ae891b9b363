"""`export --all`: every row of a front as a file, with a manifest. Killed anywhere, it goes on where it was."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import RunError
from nas.export import Exported
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.running import RUNS_ON, Run
from nas.runs import front as fronts
from nas.runs import read_json, write_atomic, write_json
from nas.runs.volume import check_front

MANIFEST = "manifest"
SUFFIXES = {
    "onnx": ".onnx",
    "onnx-int8": ".onnx",
    "openvino": ".xml",
    "openvino-int8": ".xml",
    "pte": ".pte",
    "tflite": ".tflite",
    "timm": ".safetensors",
}


@dataclass(frozen=True)
class ExportedFront:
    """folder: what holds the files, `manifest.json` and `manifest.csv`; files: a row of the manifest for each;
    written: how many of them this call wrote."""

    folder: Path
    format: str
    files: list[dict[str, Any]]
    written: int


def export_front(
    run: Run,
    out: str | Path,
    format: str = "onnx",  # noqa: A002
    *,
    data: str | None = None,
    evaluate: bool = False,
    listener: Listener = SILENT,
) -> ExportedFront:
    """Write each row of a front to `out/ID.SUFFIX`, checked against torch as `Run.export` does, and a manifest of file,
    id, accuracy, costs, latencies as the run knows them, and the largest difference of a logit.

    A file that the manifest knows, whose content and whose network are still those, is not written again. evaluate: the
    accuracy of each file itself on the search split as well, `file_accuracy`. data: as of `Run.evaluate`. Raises
    RunError where there is no front, or `out` holds something else; ExportError where a file does not agree.
    """
    check_front(run)
    if format not in SUFFIXES:
        raise RunError(f"unknown format {format!r}, expected {', '.join(SUFFIXES)}")
    folder, written = Path(out), 0
    known = _known(folder, run, format)
    rows, files = fronts.to_rows(run.front), []
    listener.progress("export", 0, len(rows))
    for done, row in enumerate(rows, start=1):
        kept, path, weights = known.get(row["id"]), folder / (row["id"] + SUFFIXES[format]), _weights(run, row["id"])
        if kept is None or kept["weights"] != weights or kept["sha256"] != _digest(path):
            _make(folder)
            made = run.export(row["id"], path, format, data)
            kept = {"max_abs_diff": made.max_abs_diff, "bytes": made.bytes, "sha256": _digest(path), "weights": weights}
            written += 1
        if evaluate and "file_accuracy" not in kept and format in RUNS_ON:
            made = Exported(path, format, kept["max_abs_diff"], kept["bytes"])
            kept = kept | {"file_accuracy": run.evaluate(made, data)}
        known[row["id"]] = entry = _entry(path.name, row) | {
            name: kept[name] for name in (*_OF_FILES, "file_accuracy") if name in kept
        }
        files.append(entry)
        rest = [known[later["id"]] for later in rows[done:] if later["id"] in known]
        _write_manifest(folder, run, format, [*files, *rest])
        listener.progress("export", done, len(rows), path.name)
    return ExportedFront(folder, format, files, written)


_OF_FILES = ("max_abs_diff", "bytes", "sha256", "weights")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}; give an --out that can be written") from None


def _known(folder: Path, run: Run, format: str) -> dict[str, dict[str, Any]]:  # noqa: A002
    """What the manifest says by id; RunError where the folder is of something else."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    file = folder / f"{MANIFEST}.json"
    about = read_json(file) if file.exists() else None
    if not isinstance(about, dict) or about.get("run") != _about(run) or about.get("format") != format:
        raise RunError(f"{folder} holds no {format} files of {run.path}; give another --out")
    return {entry["id"]: entry for entry in about["files"]}


def _about(run: Run) -> dict[str, Any]:
    return {"created": run.created, "supernet": run.inputs.get("supernet")}


def _entry(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the manifest: accuracies on the search and test split, latencies as they are best known."""
    figures = row["accuracy"]
    accuracy = next((v for n in ("finetuned", "inherited", "predicted") if (v := figures[n]) is not None), None)
    latency = {
        target: next((v for n in ("verified", "measured", "predicted") if (v := known[n]) is not None), None)
        for target, known in row["latency_ms"].items()
    }
    about = {"file": name, "id": row["id"], "accuracy": accuracy, "accuracy_test": figures["test"]}
    about["precision"] = figures["precision"]
    return about | {"macs": row["macs"], "params": row["params"], "latency_ms": latency}


def _write_manifest(folder: Path, run: Run, format: str, files: list[dict[str, Any]]) -> None:  # noqa: A002
    write_json(folder / f"{MANIFEST}.json", {"run": _about(run), "format": format, "files": files})
    flat = [_flat(entry) for entry in files]
    names = list(dict.fromkeys(name for entry in flat for name in entry))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    write_atomic(folder / f"{MANIFEST}.csv", text.getvalue())


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    latency = {f"latency_ms[{target}]": value for target, value in entry["latency_ms"].items()}
    head = {name: entry[name] for name in entry if name not in ("latency_ms", *_OF_FILES)}
    return head | latency | {name: entry[name] for name in _OF_FILES}


def _digest(path: Path) -> str | None:
    """Of a file and, of OpenVINO's graph, its weights; None where it is not there."""
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    if not all(file.is_file() for file in files):
        return None
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _weights(run: Run, arch_id: str) -> str:
    """What a file is made of, so that it is written again when a row gets other weights."""
    files = sorted((run.path / "models" / arch_id).glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
