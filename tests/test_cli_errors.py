"""Bad input: exit 2 and one line that says what was wrong; nothing is left behind, and nothing goes on by guessing."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from journey import TARGET, Done, Journey, search_command
from searchers import lacks

DIGITS_TOML = Path(__file__).resolve().parents[1] / "search_spaces" / "digits.toml"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done: Done, *fragments: str, lines: int | None = 1) -> None:
    """Exit 2, nothing on stdout, one line on stderr that holds the fragments."""
    assert done.code == 2, done
    assert done.out == ""
    assert lines is None or len(done.err.splitlines()) == lines, done.err
    assert done.last.startswith("nas: ")
    assert "warning" not in done.last
    for fragment in fragments:
        assert fragment in done.last


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("space show vitcifar", ["'vitcifar'", "vit_cifar"]),
        ("space show nowhere.toml", ["nowhere.toml"]),
        ("train vitcifar --data digits --out out", ["'vitcifar'", "vit_cifar"]),
        ("train digits --data cifar --out out", ["'cifar'", "parquet:", "folder:"]),
        ("train digits --data parquet:nowhere --out out", ["nowhere"]),
        ("train digits --data folder:nowhere --out out", ["nowhere"]),
        ("train digits --data digits --num-classes 7 --out out", ["10 classes", "expects 7"]),
        ("train vit_cifar --data digits --out out", ["8x8", "32x32"]),
        ("train digits --data digits --sampler best --out out", ["'best'", "complexity, sandwich, uniform"]),
        ("train digits --data digits --steps 0 --out out", ["steps is 0"]),
        ("train digits --data digits --steps -5 --out out", ["steps is -5"]),
        ("train digits --data digits --epochs nan --out out", ["epochs is nan"]),
        ("train digits --data digits --minutes 0 --out out", ["minutes is 0"]),
        ("train digits --data digits --steps 5 --epochs 1 --out out", ["steps and epochs", "one of"]),
        ("train digits --data digits --steps 5 --lr -1 --out out", ["lr is -1"]),
        ("train digits --data digits --steps 5 --batch-size 0 --out out", ["batch_size is 0"]),
        ("train digits --data digits --steps 5 --mixup -1 --out out", ["mixup is -1"]),
        ("train digits --data digits --steps 5 --precision fp8 --out out", ["'fp8'", "fp32 or bf16"]),
        ("train digits --data digits --steps 5 --device abacus --out out", ["'abacus'", "cpu"]),
        ("measure digits --target local --samples 2 --out out", ["'local'", "device/runtime/precision"]),
        ("measure digits --target local/tvm/fp32 --samples 2 --out out", ["'tvm'", "onnxruntime"]),
        ("measure digits --target local/torch/fp12 --samples 2 --out out", ["'fp12'", "fp32"]),
        ("measure digits --target moon/torch/fp32 --samples 2 --out out", ["'moon'", "local"]),
        ("measure nowhere --target local/torch/fp32 --samples 2 --out out", ["'nowhere'"]),
        ("fit latency nowhere --out out", ["nowhere"]),
        ("fit accuracy nowhere --out out", ["nowhere", "no run"]),
        ("search digits --supernet nowhere --out out", ["nowhere"]),
        ("search digits --supernet nowhere --out out --workers 2", ["give ray as well"]),
        ("search digits --supernet nowhere --out out --searcher grid", ["'grid'", "nsga2"]),
        ("search digits --supernet nowhere --out out --front-per-target", ["takes targets", "latency_ms<=5@TARGET"]),
        ("search digits --supernet nowhere --out out --objective speed", ["'speed'", "expected one of latency_ms"]),
        ("search digits --supernet nowhere --out out --objective latency_ms", ["depends on the target", "add @"]),
        ("search digits --supernet nowhere --out out --objective latency_ms@moon/torch/fp32", ["'moon'", "local"]),
        ("search digits --supernet nowhere --out out --budget latency_ms<=5@moon/torch/fp32", ["'moon'", "local"]),
        ("search digits --supernet nowhere --out out --budget P(params<=1M)>=0.9", ["leave out P( )"]),
        ("verify nowhere", ["nowhere", "no run"]),
        ("status nowhere", ["nowhere", "no run"]),
        ("report nowhere", ["nowhere", "no run"]),
        ("pareto nowhere", ["nowhere", "no run"]),
        ("export nowhere --arch 0123456789ab --out out", ["nowhere", "no run"]),
        ("export nowhere --all --out out", ["nowhere", "no run"]),
        ("pareto nowhere --out front.xlsx", ["'.xlsx'", ".csv, .parquet, .json"]),
        ("pareto nowhere --reference 1,2", ["--hypervolume"]),
        ("compare nowhere elsewhere", ["nowhere", "no run"]),
        ("compare nowhere", ["fewer than two"]),
        ("compare nowhere nowhere", ["twice"]),
        ("compare a b --out front.pdf", ["'.pdf'", ".svg or .png"]),
        ("compare a b --at fast", ["'fast'", "above 0"]),
        ("compare a b --split train", ["'train'", "search or test"]),
        ("merge nowhere elsewhere --out out", ["nowhere", "no run"]),
        ("remeasure nowhere --target local/torch/fp32", ["nowhere", "no run"]),
        ("export-study nowhere --storage sqlite:///out", ["nowhere", "no run"]),
    ],
)
def test_what_cannot_be_asked(line, fragments, nas_here, tmp_path):
    refused(nas_here(*line.split()), *fragments)
    assert contents(tmp_path) == {}
    assert not (tmp_path / "out").exists()


BUDGETS = {
    "params<=10X": ["'X'", "K, M, G, B"],
    "latency_ms<=5s@local/onnxruntime/fp32": ["'s'", "ms"],
    "parms<=1M": ["'parms'", "did you mean params"],
    "speed<=5": ["'speed'", "latency_ms"],
    "latency_ms<=5": ["@TARGET"],
    "latency_ms<=5@": ["device/runtime/precision"],
    "latency_ms<=5@local": ["'local'"],
    "latency_ms<=5@local/tvm/fp32": ["'tvm'", "onnxruntime"],
    "latency_ms<=5@moon/onnxruntime/fp32": ["'moon'"],
    "params<=1M@local/onnxruntime/fp32": ["leave out"],
    "latency_ms>=5@local/onnxruntime/fp32": ["'<='"],
    "accuracy<=0.9": ["'>='"],
    "accuracy>=90": ["accuracy>=0.9"],
    "params<=0": ["above 0"],
    "params<=nan": ["'nan'"],
    "params": ["cannot be read"],
    "": ["cannot be read"],
}


@pytest.mark.skipif(not lacks("ehvi"), reason="botorch is installed")
def test_a_searcher_that_is_not_installed_is_refused_before_anything_is_read(nas_here, tmp_path):
    done = nas_here("search", "digits", "--supernet", "nowhere", "--out", "out", "--searcher", "ehvi")
    refused(done, "botorch", "paretovit[bo]")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_that_mean_nothing_are_refused_before_anything_is_read(budget, nas_here, tmp_path):
    refused(nas_here("search", "digits", "--supernet", "no", "--out", "out", "--budget", budget), *BUDGETS[budget])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("mlp_ratio", "mlp_ration", ["mlp_ration", "mlp_ratio"]),
        ("depth = [1, 2, 3, 4, 5, 6, 7, 8]", "depth = []", ["depth"]),
        ("width = [16, 24, 32, 48, 64]", "width = [16, -24]", ["width", "-24"]),
        ("patch = 2", "patch = 3", ["patch", "8"]),
        ("heads = [1, 2, 4]", 'heads = ["two"]', ["heads", "two"]),
        ("num_classes = 10", "num_classes = 0", ["num_classes"]),
        ('kind = "transformer"', 'kind = "mixer"', ["mixer", "transformer"]),
        ("[head]", "[head", ["mine.toml"]),
        ("resolution = [8]", "", ["resolution"]),
    ],
)
def test_damaged_space_files(old, new, fragments, nas_here, tmp_path):
    text = DIGITS_TOML.read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    refused(nas_here("space", "show", "mine.toml"), *fragments)
    refused(nas_here("train", "mine.toml", "--data", "digits", "--out", "out"), *fragments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        "train digits --data digits --steps 5 --out file/out",
        "measure digits --target local/torch/fp32 --samples 2 --out file/out",
    ],
)
def test_an_out_that_cannot_be_made(line, nas_here, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(nas_here(*line.split()), "file/out", "Not a directory", lines=None)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_folder_that_holds_something_else(nas_here, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows.csv").write_text("mine")
    refused(nas_here("measure", "digits", "--target", TARGET, "--samples", "2", "--out", "out"), "out", "another")
    assert contents(tmp_path) == {"out/rows.csv": b"mine"}


# From here on there is a supernet, a table, a predictor and a run.


@pytest.mark.slow
class TestWithARun:
    @pytest.fixture
    def run(self, journey: Journey, tmp_path: Path) -> Path:
        return Path(shutil.copytree(journey.run, tmp_path / "run"))

    def test_budgets_out_of_reach_say_the_reach(self, journey, nas_here, digits, tmp_path):
        def asked(*budgets: str) -> Done:
            chosen = [word for budget in budgets for word in ("--budget", budget)]
            given = ["--supernet", journey.supernet, "--predictor", journey.predictor, "--out", "out"]
            return nas_here("search", "digits", *given, *chosen)

        least = digits.cost(digits.encode([digits.smallest]))
        done = asked("params<=1K")
        refused(done, "params<=1K", "cannot hold", f"{least.params[0] / 1e6:.4g}M")
        refused(asked("macs<=1K"), "macs<=1K", f"{least.macs[0] / 1e6:.4g}M")
        refused(asked("memory_mib<=0.0001"), "memory_mib", f"{least.memory_mib[0]:.4g}")
        done = asked(f"latency_ms<=0.00001@{TARGET}", "params<=1M")
        refused(done, "latency_ms<=", "cannot hold")
        low, high = (float(text) for text in re.search(r"reaches from (\S+) to (\S+) here", done.last).groups())
        assert 0 < low < high
        assert contents(tmp_path) == {}

    def test_a_budget_out_of_reach_without_a_predictor_is_measured_and_leaves_nothing(
        self, journey, nas_here, tmp_path
    ):
        budget = "latency_ms<=0.00001@local/torch/fp32"
        done = nas_here("search", "digits", "--supernet", journey.supernet, "--budget", budget, "--out", "out")
        refused(done, "cannot hold", "reaches from", lines=None)
        assert contents(tmp_path) == {}

    def test_a_supernet_of_another_space(self, journey, nas_here, tmp_path):
        refused(nas_here("search", "vit_cifar", "--supernet", journey.supernet, "--out", "out"), "digits", "vit_cifar")
        assert contents(tmp_path) == {}

    @pytest.mark.parametrize("keep", [0, 7, 1000, -1])
    def test_a_truncated_supernet(self, keep, journey, nas_here, tmp_path):
        folder = Path(shutil.copytree(journey.supernet, tmp_path / "net"))
        file = folder / "supernet.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        refused(nas_here("search", "digits", "--supernet", folder, "--out", "out"), "supernet.safetensors")
        assert not (tmp_path / "out").exists()

    def test_a_damaged_supernet(self, journey, nas_here, tmp_path):
        folder = Path(shutil.copytree(journey.supernet, tmp_path / "net"))
        file = folder / "supernet.safetensors"
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
        refused(nas_here("search", "digits", "--supernet", folder, "--out", "out"), "damaged")

    def test_a_truncated_checkpoint(self, journey, nas_here, tmp_path):
        folder = Path(shutil.copytree(journey.supernet, tmp_path / "net"))
        (folder / "train.json").unlink()
        (folder / "supernet.safetensors").unlink()
        file = folder / "checkpoint.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        before = contents(tmp_path)
        command = ["train", "digits", "--data", "digits", "--steps", "120", "--out", folder]
        refused(nas_here(*command), "checkpoint.safetensors")
        assert contents(tmp_path).items() >= before.items()
        refused(nas_here("search", "digits", "--supernet", folder, "--out", "out"), "not finished")

    def test_training_of_other_options(self, journey, nas_here, tmp_path):
        folder = Path(shutil.copytree(journey.supernet, tmp_path / "net"))
        before = contents(tmp_path)
        refused(nas_here("train", "digits", "--data", "digits", "--steps", "60", "--out", folder), "steps")
        assert contents(tmp_path).items() >= before.items()

    @pytest.mark.parametrize("verb", ["search", "verify", "status", "report"])
    @pytest.mark.parametrize("journal", ["evaluations", "measurements"])
    def test_a_corrupted_row(self, journal, verb, journey, run, nas_here):
        file = run / f"{journal}.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        lines[2] = lines[2].replace("0.", "x.", 1)
        file.write_text("".join(lines))
        before = contents(run)
        command = search_command(journey.folder, run) if verb == "search" else [verb, str(run)]
        refused(nas_here(*command), f"{journal}.jsonl, line 3")
        changed = {name for name, content in contents(run).items() if before.get(name) != content}
        assert changed <= {"run.lock"}

    @pytest.mark.parametrize(("key", "value"), [("accuracy", 1.5), ("accuracy", float("nan")), ("split", None)])
    def test_an_impossible_row(self, key, value, journey, run, nas_here):
        file = run / "evaluations.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[4][key] = value
        if value is None:
            del rows[4][key]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused(nas_here(*search_command(journey.folder, run)), "evaluations.jsonl, line 5")

    def test_a_torn_last_row_is_left_out_and_said(self, journey, run, nas_here):
        before = (run / "evaluations.jsonl").read_bytes()
        with open(run / "evaluations.jsonl", "ab") as file:
            file.write(b'{"arch":"0123456789ab","accur')
        assert nas_here("status", run, "--json").json["notes"] != []
        done = nas_here(*search_command(journey.folder, run))
        assert done.code == 0
        assert "evaluations.jsonl: the last line (29 bytes) was cut short and is left out" in done.err
        assert (run / "evaluations.jsonl").read_bytes() == before
        assert nas_here("status", run, "--json").json["notes"] == []

    def test_a_run_of_another_search(self, journey, run, nas_here):
        before = contents(run)
        for option, value, what in (
            ("--evaluations", 30, "evaluations"),
            ("--seed", 4, "seed"),
            ("--budget", "macs<=2M", "budgets"),
        ):
            refused(nas_here(*search_command(journey.folder, run), option, value), "other inputs", what)
        changed = {name for name, content in contents(run).items() if before.get(name) != content}
        assert changed <= {"run.lock"}

    def test_verify_and_export_before_there_is_a_front(self, journey, run, nas_here):
        for name in ("front.csv", "state.json"):
            (run / name).unlink()
        shutil.rmtree(run / "models")
        refused(nas_here("verify", run), "no front")
        assert nas_here("pareto", run, "--json").json == {"front": []}
        known = json.loads((run / "evaluations.jsonl").read_text().splitlines()[0])["arch"]
        refused(nas_here("export", run, "--arch", known, "--out", "model.onnx"), known, "none yet")

    def test_exports_that_cannot_be(self, journey, nas_here, tmp_path):
        arch = journey.said["pareto"].json["front"][0]["id"]
        for asked, fragments in (
            (["--arch", "0123456789ab", "--out", "model.onnx"], ["0123456789ab", "nas pareto"]),
            (["--arch", "../../../etc", "--out", "model.onnx"], ["12 hex digits"]),
            (["--arch", arch, "--format", "coreml", "--out", "model.onnx"], ["'coreml'", "onnx"]),
        ):
            refused(nas_here("export", journey.run, *asked), *fragments)
        assert contents(tmp_path) == {}
        (tmp_path / "file").write_text("mine")
        done = nas_here("export", journey.run, "--arch", arch, "--out", "file/model.onnx")
        assert done.code in (1, 2)
        assert "file/model.onnx" in done.last
        assert contents(tmp_path) == {"file": b"mine"}

    def test_questions_to_a_front_that_mean_nothing(self, journey, nas_here):
        for asked, fragments in (
            (["--where", "params<=1X"], ["'X'"]),
            (["--where", "parms<=1"], ["'parms'"]),
            (["--where", "latency_ms<=1@local/torch/fp32"], ["local/torch/fp32", TARGET]),
            (["--best", "beauty"], ["'beauty'"]),
            (["--best", "latency_ms@moon"], ["'moon'"]),
            (["--where", "params<=1", "--best", "accuracy"], ["no row"]),
        ):
            refused(nas_here("pareto", journey.run, *asked), *fragments)

    @pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "fast", ""])
    def test_impossible_latencies_in_a_table(self, value, journey, nas_here, tmp_path):
        table = Path(shutil.copytree(journey.table, tmp_path / "table"))
        file = table / "rows.csv"
        rows = list(csv.reader(file.read_text().splitlines()))
        rows[3][rows[0].index("latency_ms")] = value
        with open(file, "w", newline="") as opened:
            csv.writer(opened, lineterminator="\n").writerows(rows)
        refused(nas_here("fit", "latency", table, "--out", "out"), "rows.csv, line 4")
        assert not (tmp_path / "out").exists()

    def test_a_corrupted_sample_and_a_torn_one(self, journey, nas_here, tmp_path):
        table = Path(shutil.copytree(journey.table, tmp_path / "table"))
        file, content = table / "samples.jsonl", (table / "samples.jsonl").read_bytes()
        command = ["measure", "digits", "--target", TARGET, "--samples", "12", "--out", table, "--json"]
        lines = content.splitlines(keepends=True)
        file.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
        refused(nas_here(*command), "samples.jsonl, line 2")
        file.write_bytes(content + b'{"id": "abc')
        done = nas_here(*command)
        assert done.json["rows"] == 12
        assert "cut short" in done.err
        assert file.read_bytes() == content

    def test_a_table_of_another_space_or_target(self, journey, nas_here, tmp_path):
        table = Path(shutil.copytree(journey.table, tmp_path / "table"))
        before = contents(table)
        for space, target in (("vit_cifar", TARGET), ("digits", "local/torch/fp32")):
            refused(nas_here("measure", space, "--target", target, "--samples", "2", "--out", table), "another folder")
        assert contents(table) == before

    def test_predictors_that_are_none(self, journey, nas_here, tmp_path):
        def asked(predictor: Path) -> Done:
            given = ["--supernet", journey.supernet, "--predictor", predictor, "--out", "out"]
            return nas_here("search", "digits", *given, "--budget", f"latency_ms<=1@{TARGET}")

        refused(asked(tmp_path / "nowhere"), "nowhere")
        refused(asked(journey.folder / "accuracy"), "accuracy")
        damaged = Path(shutil.copytree(journey.predictor, tmp_path / "damaged"))
        file = damaged / "arrays.npz"
        file.write_bytes(file.read_bytes()[:-20])
        refused(asked(damaged), "damaged")
        assert not (tmp_path / "out").exists()

    def test_outs_that_cannot_be_made(self, journey, nas_here, tmp_path):
        (tmp_path / "file").write_text("mine")
        for command in (
            ["fit", "latency", journey.table, "--out", "file/out"],
            ["fit", "accuracy", journey.run, "--out", "file/out"],
            ["search", "digits", "--supernet", journey.supernet, "--budget", "params<=1M", "--out", "file/out"],
        ):
            refused(nas_here(*command), "file/out")
        assert contents(tmp_path) == {"file": b"mine"}
