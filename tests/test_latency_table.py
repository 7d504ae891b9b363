"""Latency tables: what was acknowledged is there again, whatever happened to the writer; what is damaged is named."""

from __future__ import annotations

import csv
import json
import resource
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import RunError
from nas.latency import Measurement, TableWriter, Target, read_table
from nas.latency.table import SCHEMA
from nas.latency.table_text import COLUMNS, csv_line, from_cells, to_cells
from nas.latency.toml_text import to_toml
from nas.space import SearchSpace

TARGET = Target.parse("local/onnxruntime/fp32")
POSITIVE = st.floats(1e-6, 1e6)
Rows = list[tuple[str, list[int], Measurement]]  # id, genotype, measurement


def measurement(latency_ms: float = 2.5, session: str = "20261120T100000-ab12", disturbed: bool = False) -> Measurement:
    return Measurement(
        target=str(TARGET),
        session=session,
        anchor="0123456789ab",
        latency_ms=latency_ms,
        latency_p95_ms=1.2 * latency_ms,
        min_ms=0.9 * latency_ms,
        ratio=latency_ms / 2,
        anchor_ms=2.1,
        reference_ms=2.0,
        anchor_drift=0.03,
        rounds_ms=((latency_ms, 1.1 * latency_ms), (latency_ms, 1.3 * latency_ms)),
        anchor_rounds_ms=(2.1, 2.1),
        inner=3,
        disturbed=disturbed,
    )


@pytest.fixture
def rows(digits: SearchSpace, rng: np.random.Generator) -> Rows:
    X = digits.sample(4, rng)
    archs = digits.decode(X)
    return [
        (arch.id, [int(g) for g in x], measurement(0.1 + i / 3))
        for i, (arch, x) in enumerate(zip(archs, X, strict=True))
    ]


def fill(folder: Path, space: SearchSpace, rows: Rows) -> TableWriter:
    writer = TableWriter(folder, TARGET, space)
    for row in rows:
        writer.append(*row)
    return writer


def test_a_table_reads_back_as_it_was_written(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    writer = fill(tmp_path / "t", digits, rows)
    table = read_table(tmp_path / "t")
    assert table.target == TARGET
    assert table.header["space"]["digest"] == digits.digest
    assert table.notes == ()
    assert table.rows["id"].tolist() == [arch_id for arch_id, _, _ in rows]
    assert table.rows["latency_ms"].tolist() == [m.latency_ms for _, _, m in rows]
    assert [arch.id for arch in digits.decode(table.genotypes)] == table.rows["id"].tolist()
    assert writer.measured == frozenset(table.rows["id"])
    assert table.reference_ms == writer.reference_ms == 2.0


def test_samples_hold_every_round(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    fill(tmp_path, digits, rows)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [Measurement.from_row(sample) for sample in samples] == [m for _, _, m in rows]
    assert len((tmp_path / "sessions.jsonl").read_text().splitlines()) == 1
    assert all(f"`{name}`" in (tmp_path / "README.md").read_text() for name in COLUMNS)


def test_a_table_is_continued_and_nothing_enters_twice(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    fill(tmp_path, digits, rows[:2])
    writer = TableWriter(tmp_path, TARGET, digits)
    assert writer.measured == {rows[0][0], rows[1][0]}
    with pytest.raises(RunError, match="already"):
        writer.append(*rows[1])
    writer.append(*rows[2])
    assert read_table(tmp_path).rows["id"].tolist() == [row[0] for row in rows[:3]]


@pytest.mark.parametrize("cut", [0, 5, 60])
def test_a_table_of_the_first_schema_is_read_and_continued(
    tmp_path: Path, digits: SearchSpace, rows: Rows, cut: int
) -> None:
    fill(tmp_path, digits, rows[:2])
    place = list(COLUMNS).index("energy_mj")  # which schema 1 did not have
    lines = [line.split(",") for line in (tmp_path / "rows.csv").read_text().splitlines()]
    text = "".join(",".join(cells[:place] + cells[place + 1 :]) + "\n" for cells in lines)
    (tmp_path / "rows.csv").write_text(text[: len(text) - cut])
    header = (tmp_path / "target.toml").read_text()
    (tmp_path / "target.toml").write_text(header.replace(f"schema = {SCHEMA}", "schema = 1"))
    table = read_table(tmp_path)
    assert table.rows["id"].tolist() == [row[0] for row in rows[: 1 if cut else 2]]
    assert table.rows["energy_mj"].isna().all()
    writer = TableWriter(tmp_path, TARGET, digits)
    writer.append(rows[2][0], rows[2][1], replace(rows[2][2], energy_mj=4.5))
    read = read_table(tmp_path).rows
    assert read["id"].tolist() == [row[0] for row in rows[:3]]
    assert read["energy_mj"].fillna(0).tolist() == [0, 0, 4.5]


def test_the_reference_is_that_of_the_first_calm_row(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    (first, x0, m0), (second, x1, m1), *_ = rows
    writer = fill(tmp_path, digits, [(first, x0, replace(m0, disturbed=True, reference_ms=9.0))])
    assert writer.reference_ms is None
    assert read_table(tmp_path).reference_ms is None
    writer.append(second, x1, m1)
    assert writer.reference_ms == read_table(tmp_path).reference_ms == 2.0


def test_a_kill_at_any_byte_loses_at_most_the_row_in_flight(
    tmp_path: Path, digits: SearchSpace, rows: Rows, rng: np.random.Generator
) -> None:
    fill(tmp_path, digits, rows[:3])
    whole = {name: (tmp_path / name).read_bytes() for name in ("samples.jsonl", "rows.csv")}
    states = []  # what is on the disk after a kill while the third row was written: samples first, then rows
    for name in whole:
        last = whole[name].rstrip(b"\n").rfind(b"\n") + 1
        states += [(name, int(cut)) for cut in rng.integers(last, len(whole[name]), 8)]
    for name, cut in states:
        torn = {"samples.jsonl": whole["samples.jsonl"], "rows.csv": whole["rows.csv"]} | {name: whole[name][:cut]}
        if name == "samples.jsonl":
            torn["rows.csv"] = whole["rows.csv"][: whole["rows.csv"].rstrip(b"\n").rfind(b"\n") + 1]
        for file, content in torn.items():
            (tmp_path / file).write_bytes(content)
        said: list[str] = []
        writer = TableWriter(tmp_path, TARGET, digits, say=said.append)
        assert writer.measured >= {rows[0][0], rows[1][0]}
        if rows[2][0] not in writer.measured:
            writer.append(*rows[2])
        assert {file: (tmp_path / file).read_bytes() for file in whole} == whole
        assert bool(said) == (not all(content.endswith(b"\n") for content in torn.values()) or name == "rows.csv")


def test_a_reader_drops_a_torn_last_line_and_says_so(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    fill(tmp_path, digits, rows)
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text[:-7])
    table = read_table(tmp_path)
    assert table.rows["id"].tolist() == [row[0] for row in rows[:3]]
    assert "cut short" in table.notes[0]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("latency_ms", "nan", "latency_ms is nan, expected a positive finite number"),
        ("latency_ms", "-1.5", "latency_ms is -1.5"),
        ("latency_ms", "0.0", "latency_ms is 0.0"),
        ("ratio", "inf", "ratio is inf"),
        ("latency_p95_ms", "fast", "latency_p95_ms is 'fast'"),
        ("anchor_drift", "-0.1", "anchor_drift is -0.1"),
        ("genotype", "0 one 2", "genotype holds 'one'"),
        ("inner", "", "inner is ''"),
        ("disturbed", "maybe", "disturbed is 'maybe'"),
        ("id", "", "the id is empty"),
    ],
)
def test_a_damaged_row_is_named_by_file_and_line(
    tmp_path: Path, digits: SearchSpace, rows: Rows, column: str, value: str, says: str
) -> None:
    fill(tmp_path, digits, rows)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    cells = lines[2].split(",")
    cells[list(COLUMNS).index(column)] = value
    lines[2] = ",".join(cells)
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError) as error:
        read_table(tmp_path)
    assert f"{tmp_path / 'rows.csv'}, line 3: {says}" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="differs from"):
        TableWriter(tmp_path, TARGET, digits)


def test_other_damage_is_named_too(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    fill(tmp_path, digits, rows)
    text = (tmp_path / "rows.csv").read_text()
    for damaged, says in (
        (text.replace("ratio", "ration"), "line 1: expected the columns"),
        (text + text.splitlines()[1] + "\n", "line 6: .* twice"),
        (text.replace(",false,", ",", 1), "line 2: 13 cells, expected 14"),
        (text + "\n", "line 6: 0 cells"),
    ):
        (tmp_path / "rows.csv").write_text(damaged)
        with pytest.raises(RunError, match=says):
            read_table(tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(RunError, match=r"samples\.jsonl, line 1"):
        TableWriter(tmp_path, TARGET, digits)


def test_what_is_no_table_is_said(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    with pytest.raises(RunError, match=r"target\.toml cannot be read"):
        read_table(tmp_path / "absent")
    fill(tmp_path / "t", digits, rows)
    (tmp_path / "t" / "target.toml").write_text("device = ")
    with pytest.raises(RunError, match=r"target\.toml is damaged"):
        read_table(tmp_path / "t")
    (tmp_path / "t" / "target.toml").write_text('schema = 1\ndevice = "local"\n')
    with pytest.raises(RunError, match="lacks 'runtime'"):
        read_table(tmp_path / "t")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_an_impossible_figure_never_enters(tmp_path: Path, digits: SearchSpace, rows: Rows, value: float) -> None:
    writer = fill(tmp_path, digits, rows[:1])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    arch_id, x, m = rows[1]
    for wrong in (replace(m, latency_ms=value), replace(m, rounds_ms=((1.0, value),))):
        with pytest.raises(RunError, match="refused"):
            writer.append(arch_id, x, wrong)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_tables_are_not_mixed(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    fill(tmp_path, digits, rows)
    for target, says in (
        (replace(TARGET, batch=8), "batch is 1, not 8"),
        (replace(TARGET, runtime_version="0.1"), "not '0.1'"),
        (Target.parse("local/torch/fp32"), "runtime is 'onnxruntime'"),
    ):
        with pytest.raises(RunError, match=says):
            TableWriter(tmp_path, target, digits)
    with pytest.raises(RunError, match="space is 'digits'"):
        TableWriter(tmp_path, TARGET)
    header = (tmp_path / "target.toml").read_text()
    cpu = next(line for line in header.splitlines() if line.startswith("cpu = "))
    (tmp_path / "target.toml").write_text(header.replace(cpu, 'cpu = "another"'))
    with pytest.raises(RunError, match="processor is 'another'"):
        TableWriter(tmp_path, TARGET, digits)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        TableWriter(tmp_path / "file" / "t", TARGET)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    writer = fill(tmp_path, digits, rows[:2])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with (
        room_for(len(before[tmp_path / "samples.jsonl"]) + 20),
        pytest.raises(RunError, match="what was measured is kept"),
    ):
        writer.append(*rows[2])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    writer.append(*rows[2])
    assert len(read_table(tmp_path).rows) == 3


@given(
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True), st.lists(st.integers(-1, 9), max_size=4), POSITIVE, st.booleans()
)
def test_a_row_survives_its_text(arch_id: str, genotype: list[int], latency_ms: float, disturbed: bool) -> None:
    cells = to_cells(arch_id, genotype, measurement(latency_ms, disturbed=disturbed))
    row = from_cells(next(csv.reader([csv_line(cells)])))
    assert row["id"] == arch_id
    assert row["genotype"] == tuple(genotype)
    assert (row["latency_ms"], row["disturbed"]) == (latency_ms, disturbed)


def test_a_row_is_in_both_files_or_in_none(tmp_path: Path, digits: SearchSpace, rows: Rows) -> None:
    writer = fill(tmp_path, digits, rows[:2])
    before = {name: (tmp_path / name).read_bytes() for name in ("samples.jsonl", "rows.csv")}
    (tmp_path / "rows.csv").unlink()
    (tmp_path / "rows.csv").mkdir()  # nothing can be appended to it
    with pytest.raises(RunError, match="cannot be written"):
        writer.append(*rows[2])
    (tmp_path / "rows.csv").rmdir()
    (tmp_path / "rows.csv").write_bytes(before["rows.csv"])
    assert (tmp_path / "samples.jsonl").read_bytes() == before["samples.jsonl"]
    writer.append(*rows[2])
    assert TableWriter(tmp_path, TARGET, digits).measured == {row[0] for row in rows[:3]}


PLAIN = st.text() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
KEY = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.dictionaries(KEY, PLAIN | st.lists(st.text()) | st.dictionaries(KEY, PLAIN, min_size=1)))
def test_headers_survive_their_toml(header: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(header)) == header
