"""`nas table show`, `merge`, `check`: tables whose timings are invented here, and what must follow from them."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_latency_imports import PHONES, WRITTEN

from nas.arch import Arch
from nas.cost import cost
from nas.errors import RunError
from nas.latency import Effort, Samples, Session, TableWriter, Target, measure_archs, read_table
from nas.latency.imports import import_table
from nas.latency.protocol import judged
from nas.latency.table import SCHEMA, read_samples, sample_line
from nas.latency.table_check import check_table
from nas.latency.table_merge import merge_tables
from nas.latency.table_show import show_table
from nas.latency.table_text import csv_line, to_cells
from nas.space import SearchSpace

TARGET = Target.parse("local/onnxruntime/fp32")
FILES = {"README.md", "rows.csv", "samples.jsonl", "sessions.jsonl", "target.toml"}


@dataclass
class Invented:
    """A device whose networks take 1 us a kMAC, `slow` times that, and up to 1 % more. odd: what one takes beside, by
    id."""

    anchor: Arch
    rng: np.random.Generator
    slow: float = 1.0
    odd: tuple[str, float] = ("", 1.0)

    def session(self, subjects: Any, *, rng: Any, effort: Effort, accept: Any = None) -> Session:
        """See `Bench`."""
        return judged([self._samples(arch) for arch in (*subjects, self.anchor)], accept)

    def _samples(self, arch: Arch) -> Samples:
        seconds = 1e-9 * cost(arch).macs * self.slow * (self.odd[1] if arch.id == self.odd[0] else 1)
        return Samples.of_seconds((seconds * self.rng.uniform(1, 1.01, (6, 5))).tolist(), 3)


def invent(folder: Path, space: SearchSpace, rows: slice, seed: int = 0, **device: Any) -> Path:
    """A table of some of the same twenty networks, in two sessions."""
    X = space.sample(20, np.random.default_rng(7))[rows]
    archs = space.decode(X)
    writer = TableWriter(folder, TARGET, space)
    for part in (range(0, len(X), 2), range(1, len(X), 2)):
        bench = Invented(space.middle, np.random.default_rng([seed, part.start]), **device)
        for i, found in measure_archs(
            [archs[i] for i in part],
            TARGET,
            rng=np.random.default_rng(seed),
            anchor=space.middle,
            effort=Effort(rounds=6, attempts=1),
            reference_ms=writer.reference_ms,
            bench=bench,
        ):
            writer.append(archs[part[i]].id, X[part[i]].tolist(), found)
    return folder


@pytest.fixture
def table(tmp_path: Path, digits: SearchSpace) -> Path:
    return invent(tmp_path / "a", digits, slice(0, 12))


@pytest.fixture
def other(tmp_path: Path, digits: SearchSpace) -> Path:
    """Eight networks, four of which the first table has too; everything 3 % slower."""
    return invent(tmp_path / "b", digits, slice(8, 16), seed=1, slow=1.03)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    (tmp_path / "phones.csv").write_text(PHONES)
    import_table("phones_vit", tmp_path / "phones.csv", tmp_path / "imported")
    return tmp_path / "imported"


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader((folder / "rows.csv").read_text().splitlines())}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(file: Path, change: Callable[[str], str]) -> None:
    before = file.read_text()
    assert change(before) != before
    file.write_text(change(before))


def set_header(folder: Path, name: str, value: str) -> None:
    edit(folder / "target.toml", lambda text: re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text))


def rewrite(folder: Path, **changes: Any) -> None:
    """The first sample with other figures, and the row that follows from them."""
    first, *rest = read_samples(folder)
    genotype = changes.pop("genotype", first.genotype)
    samples = [first._replace(genotype=genotype, measurement=replace(first.measurement, **changes)), *rest]
    titles = (folder / "rows.csv").read_text().splitlines(keepends=True)[0]
    (folder / "samples.jsonl").write_text("".join(map(sample_line, samples)))
    (folder / "rows.csv").write_text(titles + "".join(csv_line(to_cells(*sample)) for sample in samples))


def test_show_says_what_the_files_hold(table, digits, nas_here):
    done = nas_here("table", "show", table, "--json")
    told = json.loads(done.out)
    rows = rows_of(table)
    latencies = [float(row["latency_ms"]) for row in rows.values()]
    archs = {arch.id: arch for arch in digits.decode(read_table(table).genotypes)}
    assert (done.code, told["target"], told["rows"], told["disturbed"]) == (0, str(TARGET), 12, 0)
    assert told["sessions"] == len({row["session"] for row in rows.values()}) == 2
    assert (told["space"], told["runtime_version"]) == ("digits", TARGET.runtime_version)
    assert told["latency_ms"] == {"min": min(latencies), "max": max(latencies)}
    assert told["macs"] == {
        end: best(cost(arch).macs for arch in archs.values()) for end, best in (("min", min), ("max", max))
    }
    assert told["anchor_drift"] == max(float(row["anchor_drift"]) for row in rows.values())
    assert 0 <= told["age_days"] < 0.01


def test_show_counts_days_and_disturbed_rows(tmp_path, digits):
    folder = invent(tmp_path / "t", digits, slice(0, 4))
    rewrite(folder, disturbed=True)
    started = time.mktime(time.strptime("2026-03-01 12:00", "%Y-%m-%d %H:%M")) - time.timezone
    set_header(folder, "started", '"2026-03-01 12:00 UTC"')
    shown = show_table(folder, now=started + 36 * 3600)
    assert (shown.facts["age_days"], shown.facts["disturbed"]) == (1.5, 1)
    assert len(shown.points[str(TARGET)][0]) == 3


def test_a_person_sees_latency_grow_with_macs(table, nas_here):
    done = nas_here("table", "show", table)
    bars = [line.count("#") for line in done.out.splitlines() if line.startswith("#")]
    assert bars == sorted(bars)
    assert bars[0] < bars[-1] == 30
    assert len(bars) == 8
    assert max(map(len, done.out.splitlines())) <= 100


def test_an_empty_table_is_shown_and_an_import_is_told_apart(tmp_path, digits, imported, nas_here):
    TableWriter(tmp_path / "empty", TARGET, digits)
    told = json.loads(nas_here("table", "show", tmp_path / "empty", "--json").out)
    assert (told["rows"], told["latency_ms"], told["reference_ms"]) == (0, None, None)
    assert nas_here("table", "show", tmp_path / "empty").code == 0
    assert nas_here("table", "check", tmp_path / "empty").code == 0
    told = json.loads(nas_here("table", "show", imported, "--json").out)
    assert (told["kind"], told["rows"], told["target"], told["disturbed"]) == ("imported", 2, None, None)
    assert [one["rows"] for one in told["targets"]] == [1, 1]
    assert "measured by others" in nas_here("table", "show", imported).out


@pytest.mark.parametrize("name", WRITTEN)
def test_every_import_can_be_shown_and_holds(name, tmp_path, nas_here):
    file = tmp_path / ("toy.json" if name == "nn_meter_vit" else "toy.csv")
    file.write_text(WRITTEN[name])
    import_table(name, file, tmp_path / "out")
    assert nas_here("table", "show", tmp_path / "out").code == 0
    told = json.loads(nas_here("table", "check", tmp_path / "out", "--json").out)
    assert told["holds"], told


def test_a_merge_is_on_one_scale_and_keeps_every_timing(table, other, tmp_path, nas_here):
    done = nas_here("table", "merge", table, other, "--out", tmp_path / "c", "--json")
    told, merged = json.loads(done.out), read_table(tmp_path / "c")
    assert (done.code, told["rows"], told["repeated"], told["disturbed"]) == (0, 16, 4, 0)
    reference = min(read_table(table).reference_ms, read_table(other).reference_ms)
    assert told["reference_ms"] == merged.reference_ms == reference
    assert set(merged.rows["reference_ms"]) == {reference}
    assert np.allclose(merged.rows["latency_ms"], merged.rows["ratio"] * reference, rtol=1e-12)
    before = {s.measurement.rounds_ms: s for folder in (table, other) for s in read_samples(folder)}
    for sample in read_samples(tmp_path / "c"):
        was = before[sample.measurement.rounds_ms]
        assert (sample.id, sample.genotype, sample.measurement.ratio) == (was.id, was.genotype, was.measurement.ratio)
        assert sample.measurement.anchor_rounds_ms == was.measurement.anchor_rounds_ms
    sessions = [json.loads(line)["session"] for line in (tmp_path / "c" / "sessions.jsonl").read_text().splitlines()]
    assert len(sessions) == len(set(sessions)) == 4
    assert set(merged.rows["session"]) <= set(sessions)
    assert set(contents(tmp_path / "c")) == FILES
    assert check_table(tmp_path / "c").holds


def test_the_order_of_tables_changes_the_order_of_rows_alone(table, other, tmp_path):
    merge_tables([table, other], tmp_path / "one")
    merge_tables([other, table], tmp_path / "two")
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    assert [*rows_of(tmp_path / "one")] != [*rows_of(tmp_path / "two")]
    for name in ("target.toml", "sessions.jsonl"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_of_two_measurements_the_one_beside_the_faster_anchor_is_kept(table, other, tmp_path):
    merge_tables([other, table], tmp_path / "c")
    first, both = rows_of(table), rows_of(tmp_path / "c")
    assert all(both[name]["session"] == row["session"] for name, row in first.items())


def test_a_merged_table_is_continued_and_merged_again(table, other, tmp_path, digits):
    merge_tables([table, other], tmp_path / "c")
    invent(tmp_path / "c", digits, slice(17, 20), seed=5)
    assert len(read_table(tmp_path / "c").rows) == 19
    third = invent(tmp_path / "d", digits, slice(16, 17), seed=6)
    made = merge_tables([tmp_path / "c", third], tmp_path / "e")
    assert made.rows == 20
    assert len(read_table(tmp_path / "e").header["merged"]) == 3
    assert check_table(tmp_path / "e").holds


def test_sessions_slower_than_the_one_reference_become_disturbed(table, tmp_path, digits):
    slow = invent(tmp_path / "slow", digits, slice(8, 16), seed=2, slow=1.08)
    assert not read_table(slow).rows["disturbed"].any()
    made = merge_tables([table, slow], tmp_path / "c")
    rows = read_table(tmp_path / "c").rows
    assert made.newly_disturbed == 8
    assert rows["disturbed"].tolist() == [False] * 12 + [True] * 4
    macs = digits.cost(read_table(tmp_path / "c").genotypes).macs
    assert np.allclose(rows["latency_ms"], 1e-6 * macs, rtol=0.02)  # 8 % off before


def test_measurements_that_contradict_each_other_are_not_merged(table, tmp_path, digits, nas_here):
    name = [*rows_of(table)][9]
    odd = invent(tmp_path / "odd", digits, slice(8, 16), seed=3, odd=(name, 1.3))
    done = nas_here("table", "merge", table, odd, "--out", tmp_path / "c")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert name in done.err
    assert re.search(r"(29|30|31)% apart", done.err)
    assert not (tmp_path / "c").exists()


def test_a_copy_of_a_table_adds_nothing(table, other, tmp_path):
    (tmp_path / "copy").mkdir()
    for name, content in contents(table).items():
        (tmp_path / "copy" / name).write_bytes(content)
    merge_tables([table, other], tmp_path / "without")
    merge_tables([table, other, tmp_path / "copy"], tmp_path / "with")
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_the_same_merge_again_changes_nothing_and_another_is_refused(table, other, tmp_path, digits):
    merge_tables([table, other], tmp_path / "c")
    before = contents(tmp_path / "c")
    merge_tables([table, other], tmp_path / "c")
    assert contents(tmp_path / "c") == before
    with pytest.raises(RunError, match="something else"):
        merge_tables([table, invent(tmp_path / "d", digits, slice(16, 20))], tmp_path / "c")
    assert contents(tmp_path / "c") == before


OTHERS = [
    ("runtime_version", '"0.1"', "runtime_version"),
    ("lowering", '"written out"', "lowering"),
    ("batch", "8", "batch"),
    ("digest", '"0123456789ab"', "digest"),
    ("cpu", '"another"', "processor"),
    ("anchor", '"0123456789ab"', "anchor"),
]


@pytest.mark.parametrize(("name", "value", "says"), OTHERS, ids=[name for name, _, _ in OTHERS])
def test_tables_of_different_targets_are_not_merged(name, value, says, table, other, tmp_path, nas_here):
    set_header(other, name, value)
    done = nas_here("table", "merge", table, other, "--out", tmp_path / "c")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert f"their {says} is" in done.err
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_merged_is_one_line(table, other, imported, tmp_path, digits, nas_here):
    TableWriter(tmp_path / "empty", TARGET, digits)
    (tmp_path / "file").write_text("")
    for paths, out, says in (
        ([table], "c", "fewer than two"),
        ([table, table], "c", "twice"),
        ([table, tmp_path / "nowhere"], "c", "no latency table"),
        ([table, imported], "c", "imported"),
        ([table, tmp_path / "empty"], "c", "no rows yet"),
        ([table, other], "file/c", "cannot be written"),
        ([table, other], "a", "something else"),
    ):
        done = nas_here("table", "merge", *paths, "--out", tmp_path / out)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
        assert says in done.err
    edit(other / "rows.csv", lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n")
    with pytest.raises(RunError, match="differs from samples"):
        merge_tables([table, other], tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "empty", "file", "imported", "phones.csv"]


def test_a_whole_table_holds(table, nas_here):
    done = nas_here("table", "check", table, "--max-age", 1, "--json")
    assert done.code == 0
    assert json.loads(done.out) == {
        "table": str(table), "target": str(TARGET), "rows": 12, "holds": True, "faults": [], "expired": [], "notes": [],
    }  # fmt: skip
    assert "12 rows" in nas_here("table", "check", table).out


@pytest.mark.parametrize("figure", ["latency_ms", "latency_p95_ms", "min_ms", "ratio", "anchor_ms", "uncertainty"])
def test_a_figure_that_does_not_follow_from_its_timings_is_named(figure, table, nas_here):
    first = read_samples(table)[0]
    by = 2 if figure == "uncertainty" else 1.001
    rewrite(table, **{figure: by * getattr(first.measurement, figure)})
    read_table(table)  # which sees nothing wrong
    done = nas_here("table", "check", table, "--json")
    told = json.loads(done.out)
    assert (done.code, told["holds"], len(done.err.splitlines())) == (1, False, 1)
    assert len(told["faults"]) == 1
    assert first.id in told["faults"][0]
    assert told["faults"][0].split()[4] in (figure, "latency_ms", "ratio")  # a ratio that is off makes the latency so


def broken_genotype(folder: Path) -> None:
    rewrite(folder, genotype=read_samples(folder)[1].genotype)


def broken_genes(folder: Path) -> None:
    rewrite(folder, genotype=(1, 2, 3))


def lost_session(folder: Path) -> None:
    edit(folder / "sessions.jsonl", lambda text: text.partition("\n")[2])


def other_host(folder: Path) -> None:
    edit(folder / "sessions.jsonl", lambda text: re.sub(r'"cpu": "[^"]*"', '"cpu": "another"', text, count=1))


def edited_row(folder: Path) -> None:
    edit(folder / "rows.csv", lambda text: text.replace(",false,", ",true,", 1))


def lost_row(folder: Path) -> None:
    edit(folder / "rows.csv", lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n")


def two_scales(folder: Path) -> None:
    first = read_samples(folder)[0].measurement
    twice = {name: 2 * getattr(first, name) for name in ("latency_ms", "latency_p95_ms", "min_ms", "reference_ms")}
    rewrite(folder, **twice)


def fewer_rounds(folder: Path) -> None:
    rewrite(folder, anchor_rounds_ms=read_samples(folder)[0].measurement.anchor_rounds_ms[:-1])


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (broken_genotype, "decodes to"),
    (broken_genes, "cannot be decoded"),
    (lost_session, "lacks the session"),
    (other_host, "was on 'another'"),
    (edited_row, "rows.csv, line 2"),
    (lost_row, "has 11 rows"),
    (two_scales, "one scale"),
    (fewer_rounds, "of the anchor"),
    (lambda folder: rewrite(folder, target="local/torch/fp32"), "have the target"),
    (lambda folder: set_header(folder, "digest", '"0123456789ab"'), "digest"),
    (lambda folder: set_header(folder, "source", '""'), "does not say source"),
    (lambda folder: set_header(folder, "target", '"pi4/onnxruntime/fp32"'), "its fields make"),
    (lambda folder: set_header(folder, "anchor", '"0123456789ab"'), "expected the middle"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=[says.replace(" ", "-") for _, says in DAMAGE])
def test_damage_is_named(damage, says, table, nas_here):
    damage(table)
    done = nas_here("table", "check", table, "--anywhere", "--json")
    told = json.loads(done.out)
    assert (done.code, told["expired"], len(done.err.splitlines())) == (1, [], 1)
    assert any(says in fault for fault in told["faults"]), told
    assert f"fault: {told['faults'][0]}" in nas_here("table", "check", table, "--anywhere").out


def test_a_table_of_another_version_or_processor_has_expired(table, nas_here):
    set_header(table, "runtime_version", '"0.1"')
    edit(
        table / "sessions.jsonl",
        lambda text: text.replace(f'"onnxruntime": "{TARGET.runtime_version}"', '"onnxruntime": "0.1"'),
    )
    set_header(table, "cpu", '"another"')
    edit(table / "sessions.jsonl", lambda text: re.sub(r'"cpu": "[^"]*"', '"cpu": "another"', text))
    done = nas_here("table", "check", table, "--json")
    told = json.loads(done.out)
    assert (done.code, told["faults"], len(told["expired"])) == (1, [], 2)
    assert told["expired"][0] == f"its runtime_version is 0.1, that of this machine is {TARGET.runtime_version}"
    assert "its processor is another" in told["expired"][1]
    assert "has expired" in done.err
    assert nas_here("table", "check", table, "--anywhere").code == 0


def test_a_table_of_a_device_that_is_not_here_is_not_compared(table):
    for name, value in (("target", '"pi4/onnxruntime/fp32"'), ("device", '"pi4"')):
        set_header(table, name, value)
    found = check_table(table)
    assert found.expired == ()
    assert any("not compared with its device" in note and "'pi4'" in note for note in found.notes)


def test_age_is_counted_from_the_first_session(table, imported, nas_here):
    set_header(table, "started", '"2020-02-03 04:05 UTC"')
    assert nas_here("table", "check", table).code == 0
    done = nas_here("table", "check", table, "--max-age", 400)
    assert (done.code, done.out.count("expired: ")) == (1, 1)
    edit(imported / "import.toml", lambda text: re.sub(r"(?m)^date = .*$", 'date = "2020-02-03"', text))
    assert nas_here("table", "check", imported).code == 0
    assert nas_here("table", "check", imported, "--max-age", 400).code == 1


def test_a_later_format_is_refused_by_every_verb(table, other, imported, tmp_path, nas_here):
    set_header(table, "schema", str(SCHEMA + 1))
    edit(imported / "import.toml", lambda text: text.replace("importer = 1", "importer = 2"))
    for line in (
        ("table", "show", table),
        ("table", "check", table),
        ("table", "merge", other, table, "--out", tmp_path / "c"),
        ("fit", "latency", table, "--out", tmp_path / "p"),
        ("measure", "digits", "--target", TARGET, "--samples", "2", "--out", table),
        ("table", "show", imported),
        ("table", "check", imported),
    ):
        done = nas_here(*line)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
        assert "later version" in done.err
        assert "upgrade" in done.err
    set_header(table, "schema", '"one"')
    assert "expected a whole number" in nas_here("table", "show", table).err


def test_an_import_that_was_edited_does_not_hold(imported, nas_here):
    edit(imported / "import.toml", lambda text: re.sub(r"(?m)^licence = .*$", 'licence = ""', text))
    lines = (imported / "networks.csv").read_text().splitlines()
    column = lines[0].split(",").index("linear_macs")
    cells = next(csv.reader([lines[1]]))
    cells[column] = str(2 * float(cells[column]))
    (imported / "networks.csv").write_text("\n".join([lines[0], csv_line(cells).rstrip("\n"), *lines[2:]]) + "\n")
    told = json.loads(nas_here("table", "check", imported, "--json").out)
    assert ["does not say licence" in told["faults"][0], "MACs" in told["faults"][1]] == [True, True]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("table show nowhere", "nowhere is no latency table"),
        ("table check nowhere", "nowhere is no latency table"),
        ("table check .", "no latency table"),
        ("table check . --max-age nan", " 0"),
        ("table check . --max-age inf", "greatest age"),
        ("table check . --max-age -1", "--max-age"),
        ("table merge nowhere elsewhere --out c", "no latency table"),
        ("table merge nowhere --out c", "fewer than two"),
        ("table merge a b", "--out"),
        ("table show", "TABLE"),
    ],
)
def test_bad_input_is_one_line_and_2(line, says, nas_here, tmp_path):
    done = nas_here(*line.split())
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err
    assert [*tmp_path.iterdir()] == []
