"""An imported table on disk, and how it is read. The folder appears whole or not at all.

    import.toml     where it is from, its digest and licence, what was kept, and what was dropped and why
    networks.csv    a line per network: id, group, features of one input, `Arch` as JSON where it is one of ours
    latencies.csv   a line per row: network, fields of the target, latency_ms
    README.md       the same for people

There is no target.toml, so nothing takes it for a table that was measured here.
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch
from nas.errors import RunError
from nas.files import write_folder as write_texts
from nas.latency.imports.nn_meter_vit import block_keys
from nas.latency.imports.rows import COLUMNS, Array, Harvest, Where, keeper, per_call
from nas.latency.table import check_schema
from nas.latency.table_text import csv_line
from nas.latency.toml_text import to_toml

if TYPE_CHECKING:
    import pandas as pd

HEADER, NETWORKS, ROWS = "import.toml", "networks.csv", "latencies.csv"
KIND = "imported"
IMPORTER = 1
"""Counted up whenever a file gives other rows or features than before, so that an older import is not taken for new.
A later one than this is refused."""
_NETWORK_COLUMNS = ("id", "group", "arch", *COLUMNS)
_ROW_COLUMNS = ("id", *Where._fields, "latency_ms")


@dataclass(frozen=True)
class ImportedTable:
    """Latencies that somebody else measured.

    facts: `import.toml`. rows (n): id, target (the key as text), device, runtime, precision, version, threads, cores,
    batch, group, latency_ms of one call. features (n, f): `COLUMNS` of that call (`per_call`).
    """

    path: Path
    facts: Mapping[str, Any]
    rows: pd.DataFrame
    features: Array
    arch_texts: Mapping[str, str]

    @property
    def latency_ms(self) -> Array:
        """(n,) milliseconds."""
        return self.rows["latency_ms"].to_numpy(dtype=np.float64)

    @property
    def groups(self) -> NDArray[np.str_]:
        """(n,) labels; rows of one must not be split between fitting and judging."""
        return self.rows["group"].to_numpy(dtype=np.str_)

    @property
    def targets(self) -> tuple[str, ...]:
        """Keys of the targets, in order of appearance."""
        return tuple(dict.fromkeys(self.rows["target"]))

    @property
    def archs(self) -> tuple[Arch | None, ...]:
        """The architecture of each row, None where it is none of ours exactly."""
        known = {name: Arch.from_json(text) for name, text in self.arch_texts.items()}
        return tuple(known.get(name) for name in self.rows["id"])

    def where(self, **asked: str) -> ImportedTable:
        """The rows with these fields, such as device="a100", precision="fp32"; target=KEY for one target."""
        target = asked.pop("target", None)
        keep = keeper(asked)
        fields = self.rows[list(Where._fields)].itertuples(index=False, name=None)
        held = np.array([keep(Where(*one)) for one in fields], dtype=np.bool_)
        if target is not None:
            held &= (self.rows["target"] == target).to_numpy()
        return replace(self, rows=self.rows[held].reset_index(drop=True), features=self.features[held])

    @cached_property
    def _blocks(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {target: {} for target in self.targets}
        for name, target, ms in self.rows[["id", "target", "latency_ms"]].itertuples(index=False, name=None):
            found[target][name] = ms
        return found

    def network_ms(self, arch: Arch) -> float:
        """Latency, ms, of an architecture of ElasticViT's space as the sum of its blocks; of a table of nn_meter_vit.

        RunError where the table is of another format or several targets, or lacks a block; InputError for another
        kind of network.
        """
        if self.facts.get("format") != "nn_meter_vit" or len(self._blocks) != 1:
            raise RunError(f"{self.path} is not a table of blocks on one target; import one with format nn_meter_vit")
        (blocks,) = self._blocks.values()
        keys = block_keys(arch)
        lacking = next((key for key in keys if key not in blocks), None)
        if lacking is not None:
            raise RunError(f"{self.path} holds no block {lacking}, which {arch.id} needs; it is of another space")
        return sum(blocks[key] for key in keys)


def write_folder(out: Path, harvest: Harvest, facts: Mapping[str, Any]) -> None:
    """Write an import to a folder that is not there yet; RunError where it cannot be."""
    texts = {NETWORKS: _networks_text(harvest), ROWS: _rows_text(harvest), "README.md": _readme(facts)}
    try:
        write_texts(out, texts | {HEADER: to_toml(facts)})
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}; choose another folder") from None


def read_facts(path: Path) -> dict[str, Any]:
    """`import.toml` of a folder; RunError where it is missing, damaged or of something else."""
    try:
        facts = tomllib.loads((path / HEADER).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path / HEADER} cannot be read: {error.strerror}; make one with `nas table import`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path / HEADER} is damaged: {error}; import again") from None
    if facts.get("kind") != KIND:
        raise RunError(f"{path / HEADER} is not of an imported table; make one with `nas table import`")
    check_schema(path / HEADER, "importer", facts.get("importer"), IMPORTER)
    return facts


def read_import(path: str | Path) -> ImportedTable:
    """The imported table in a folder; RunError where it is missing or damaged."""
    import pandas as pd

    path = Path(path)
    facts = read_facts(path)
    texts = {column: str for column in ("id", "group", "arch", *Where._fields) if column != "batch"}
    try:
        kept: dict[str, Any] = {"dtype": texts, "keep_default_na": False}
        networks = pd.read_csv(path / NETWORKS, **kept).set_index("id")
        rows = pd.read_csv(path / ROWS, **kept)
        per_input = networks.loc[rows["id"], list(COLUMNS)].to_numpy(dtype=np.float64)
        rows["group"] = networks.loc[rows["id"], "group"].to_numpy()
        features = per_call(per_input, rows["batch"].to_numpy(dtype=np.float64))
        rows["target"] = _keys(rows)
        if len(rows) != facts["rows"] or not (np.isfinite(features).all() and (rows["latency_ms"] > 0).all()):
            raise ValueError(f"{len(rows)} rows that hold, expected {facts['rows']}")
        texts_of_ours = networks["arch"][networks["arch"] != ""].to_dict()
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); import again into another folder") from None
    return ImportedTable(path, facts, rows, features, {str(name): str(text) for name, text in texts_of_ours.items()})


def _keys(rows: pd.DataFrame) -> list[str]:
    fields = list(rows[list(Where._fields)].itertuples(index=False, name=None))
    keys = {one: Where(*one).key for one in set(fields)}
    return [keys[one] for one in fields]


def _networks_text(harvest: Harvest) -> str:
    text = io.StringIO()
    text.write(csv_line(list(_NETWORK_COLUMNS)))
    for name, network in harvest.networks.items():
        arch = "" if network.arch is None else network.arch.to_json()
        text.write(csv_line([name, network.group, arch, *(f"{value:.17g}" for value in network.features)]))
    return text.getvalue()


def _rows_text(harvest: Harvest) -> str:
    text = io.StringIO()
    text.write(csv_line(list(_ROW_COLUMNS)))
    for name, where, ms in harvest.rows:
        text.write(csv_line([name, *map(str, where), repr(ms)]))
    return text.getvalue()


def _readme(facts: Mapping[str, Any]) -> str:
    dropped = "\n".join(f"- {count} rows: {reason.strip(chr(34))}" for reason, count in facts["dropped"].items())
    return f"""# Imported latencies: {facts["format"]}

Measured by others, not by this project: {facts["origin"]}, licence {facts["licence"]}.
Read from {facts["address"]} (SHA-256 {facts["sha256"]}) on {facts["date"]}.

{facts["rows"]} rows of {facts["networks"]} networks on {facts["targets"]} targets were kept. Left out:
{dropped or "nothing."}

Read it with `nas.latency.imports.read_import(folder)`.
"""
