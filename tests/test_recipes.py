"""Recipes: a file stands for options, the command line comes before it, mistakes are named; each that ships trains."""

import io
import itertools
import json
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from nas.cli import main
from nas.cli.app import app
from nas.cli.recipe import options_of
from nas.cli.training import _NOT_IN_RECIPES, train
from nas.cost import macs_of
from nas.model import Network
from nas.space import load_space
from nas.training import Setting, make_sampler
from nas.training.config import TrainConfig
from nas.training.plan import count_work

RECIPES = Path(__file__).resolve().parents[1] / "examples" / "recipes"
CALLS = itertools.count()
SIZES = [(500, 375), (375, 500), (500, 333), (640, 480)]  # of ImageNet's images


@pytest.fixture
def nas_train(tmp_path, monkeypatch, capsys):
    """`nas train` with a recipe of this text, in a folder of the test's own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(text, *arguments):
        (tmp_path / "mine.toml").write_text(text)
        capsys.readouterr()
        code = main(["train", "--recipe", "mine.toml", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


SMALL = 'space = "digits"\ndata = "digits"\nout = "net"\nsteps = 4\nbatch_size = 16\nthreads = 1\n'


def config(folder="net"):
    return json.loads(Path(folder, "train.json").read_text())["config"]


# What a file says


def test_a_recipe_trains_as_the_same_options_do(nas_train, tmp_path):
    extra = (
        'lr = 2e-3\nmixup = 0.1\nsubnets_per_step = 2\nsampler = "uniform"\nproject = true\nema = 0.9\nwarmup = 0.5\n'
    )
    assert nas_train(SMALL + extra)[0] == 0
    words = (
        "--steps 4 --batch-size 16 --threads 1 --lr 2e-3 --mixup 0.1 --subnets-per-step 2 --sampler uniform --project"
    )
    command = f"train digits --data digits --out other {words} --ema 0.9 --warmup 0.5"
    assert main(command.split()) == 0
    assert config() == config("other")
    assert config() | tomllib.loads(extra) == config()
    one, other = (json.loads(Path(name, "train.json").read_text())["digest"] for name in ("net", "other"))
    assert one == other


def test_the_command_line_comes_first(nas_train):
    code, _, _ = nas_train(
        SMALL + "project = true\nlr = 1\n", "--lr", "0.01", "--no-project", "--seed", "3", "--out", "b"
    )
    assert code == 0
    assert {"lr": 0.01, "project": False, "seed": 3, "batch_size": 16}.items() <= config("b").items()
    assert not Path("net").exists()


def test_a_length_on_the_command_line_puts_the_recipes_aside(nas_train):
    assert nas_train(SMALL, "--epochs", "0.02")[0] == 0
    assert (config()["steps"], config()["epochs"]) == (None, 0.02)
    code, _, error = nas_train(SMALL + "epochs = 1\n", "--out", "b")
    assert (code, "steps and epochs" in error) == (2, True)


def test_paths_are_those_of_the_command_line(nas_train, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "mine.toml").write_text(SMALL)
    assert main(["train", "--recipe", "../mine.toml"]) == 0
    assert (tmp_path / "here" / "net" / "train.json").exists()


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("batchsize = 4", ["'batchsize'", "did you mean 'batch_size'?"]),
        ("batch-size = 4", ["'batch-size'", "did you mean 'batch_size'?"]),
        ("colour = 4", ["'colour'", "batch_size, "]),
        ('recipe = "other.toml"', ["'recipe'", "not an option"]),
        ("json = true", ["'json'", "not an option"]),
        ('lr = "high"', ["lr", "'high'", "a number"]),
        ("lr = true", ["lr", "True", "a number"]),
        ("epochs = [1, 2]", ["epochs", "a number"]),
        ("subnets_per_step = 2.5", ["subnets_per_step", "2.5", "a whole number"]),
        ("seed = true", ["seed", "a whole number"]),
        ("project = 1", ["project", "true or false"]),
        ("sampler = 3", ["sampler", "a text"]),
        ("labels = 3", ["labels", "a text, the path"]),
        ("[train]\nlr = 1", ["'train'", "not an option"]),
        ("lr = ", ["cannot be read", "TOML"]),
    ],
)
def test_mistakes_are_named(line, fragments, nas_train, tmp_path):
    code, out, error = nas_train(SMALL + line)
    assert (code, out, len(error.splitlines())) == (2, "", 1)
    for fragment in ("recipe mine.toml", *fragments):
        assert fragment in error
    assert not (tmp_path / "net").exists()


def test_ranges_are_those_of_the_command_line(nas_train, tmp_path):
    for line, fragment in (("seed = -1", "'--seed'"), ("lr = -1", "lr is -1"), ("num_classes = 1", "'--num-classes'")):
        code, _, error = nas_train(SMALL + line)
        assert (code, fragment in error) == (2, True)
    assert not (tmp_path / "net").exists()


def test_a_missing_file_and_what_a_recipe_leaves_open(nas_train, capsys):
    assert main(["train", "--recipe", "nowhere.toml"]) == 2
    assert "nowhere.toml cannot be read (No such file" in capsys.readouterr().err
    assert "Missing option '--out'" in nas_train('space = "digits"\ndata = "digits"\n')[2]
    assert "Missing argument 'SPACE'" in nas_train("lr = 1\n")[2]


def test_keys_are_the_names_of_the_options():
    command = typer.main.get_command(app).commands["train"]
    options = {flag.lstrip("-").replace("-", "_") for p in command.params for flag in p.opts if flag != "--help"}
    options = {name.lower() for name in options}
    assert set(options_of(train, _NOT_IN_RECIPES)) == options - {"recipe", "plan", "json", "help"}


# Plans


def test_a_plan_trains_nothing(nas_train, tmp_path):
    code, out, _ = nas_train(SMALL, "--plan", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan.keys() == {"steps", "precision", "step_s", "macs", "disk_mib", "epochs"}
    assert (plan["steps"], plan["step_s"] > 0) == (4, True)
    assert not (tmp_path / "net").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: what is said without one cannot be")
def test_a_plan_for_a_device_that_is_not_here_is_counted(nas_train, tmp_path):
    here, away = (json.loads(nas_train(SMALL, "--plan", "--json", *more)[1]) for more in ((), ("--device", "cuda")))
    assert away == {name: here[name] for name in ("steps", "macs", "disk_mib", "epochs")}
    code, out, error = nas_train(SMALL, "--plan", "--device", "cuda")
    assert (code, "not timed" in error, "TMACs" in out) == (0, True, True)
    code, _, error = nas_train(SMALL, "--plan", "--device", "cuda", "--minutes", "5")
    assert (code, "give steps or epochs" in error) == (2, True)


def test_a_plan_sees_every_level_evenly(digits):
    """Counted by adjacent walks of any seed, whose 64 steps see few levels, as drawn over a long time."""

    def sampler(text, seed):
        return make_sampler(text, Setting(digits, 2, seed))

    options = TrainConfig(sampler="complexity", batch_size=1, steps=1, subnets_per_step=2)
    counted = [count_work(digits, options, sampler("complexity", seed), 100).macs for seed in range(6)]
    independent = sampler("complexity:adjacent=no", 9)
    drawn = np.mean([3 * sum(map(macs_of, independent.step(step).archs)) for step in range(3000)])
    assert np.allclose(counted, drawn, rtol=0.12)


# What ships


def jpegs(count):
    """A few noisy pictures of the sizes of ImageNet's, encoded, again and again; others each time."""
    rng, made = np.random.default_rng(next(CALLS)), []
    for size in SIZES:
        rough = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size)
        stream = io.BytesIO()
        rough.save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return [made[i % len(made)] for i in range(count)]


def tar_shard(path, count):
    """One image of each of the first `count` classes."""
    with tarfile.open(path, "w") as archive:
        for number, content in enumerate(jpegs(count)):
            for suffix, held in (("jpg", content), ("cls", str(number).encode())):
                member = tarfile.TarInfo(f"{path.stem}-{number:04d}.{suffix}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))


def parquet_shard(path, encoded, labels):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = {"image": [{"bytes": content, "path": None} for content in encoded], "label": labels}
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    pq.write_table(pa.table(rows, schema=schema), path, row_group_size=50)


def trained(recipe, out, *more):
    """Twenty steps by the recipe on this machine; what train.json says."""
    short = ["--device", "cpu", "--threads", "1", "--precision", "fp32", "--steps", "20"]
    assert main(["train", "--recipe", str(RECIPES / recipe), "--out", str(out), *short, *more]) == 0
    said = json.loads((out / "train.json").read_text())
    assert said["plan"]["steps"] == 20
    asked = tomllib.loads((RECIPES / recipe).read_text())
    kept = asked.keys() & said["config"].keys() - {"steps", "epochs", "batch_size", "precision"}
    assert kept
    assert {name: said["config"][name] for name in kept} == {name: asked[name] for name in kept}
    return said


@pytest.fixture
def coarse(tmp_path, root):
    """The space of the ImageNet recipes at a fourth of its resolution: at 256 pixels twenty steps and estimating the
    statistics of the largest take minutes of a CPU."""
    text, full = (root / "search_spaces" / "elasticvit.toml").read_text(), "[128, 160, 176, 192, 224, 256]"
    assert full in text
    (tmp_path / "coarse.toml").write_text(text.replace(full, "[32, 64]"))
    return str(tmp_path / "coarse.toml")


def test_all_that_ship_are_tried():
    assert {path.name for path in RECIPES.glob("*.toml")} == {
        "cifar10.toml", "digits.toml", "imagenet100_day.toml", "imagenet_elasticvit.toml"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["imagenet100_day", "imagenet_elasticvit"])
def test_the_space_of_the_imagenet_recipes(name):
    asked = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    space = load_space(asked["space"], asked.get("num_classes"))
    assert (space.resolution, space.num_classes) == (256, asked.get("num_classes", 1000))


def test_the_learning_rate_of_elasticvit_follows_from_its_batch():
    asked = tomllib.loads((RECIPES / "imagenet_elasticvit.toml").read_text())
    assert asked["lr"] == pytest.approx(5e-4 * asked["batch_size"] / 512)
    assert asked["warmup"] * asked["epochs"] == pytest.approx(5, abs=0.01)


def test_digits(tmp_path):
    trained("digits.toml", tmp_path / "net")


def test_cifar10(tmp_path, rng):
    for split, count in (("train", 200), ("test", 40)):
        pictures = []
        for _ in range(count):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
            pictures.append(stream.getvalue())
        parquet_shard(tmp_path / f"{split}.parquet", pictures, [i % 10 for i in range(count)])
    trained("cifar10.toml", tmp_path / "net", "--data", f"parquet:{tmp_path}", "--batch-size", "4")


@pytest.mark.slow
def test_imagenet100(tmp_path, coarse):
    for split, count in (("train", 100), ("val", 8), ("test", 8)):
        parquet_shard(tmp_path / f"{split}-00000-of-00001.parquet", jpegs(count), list(range(count)))
    more = ["--data", f"stream:{tmp_path}", "--batch-size", "4"]
    said = trained("imagenet100_day.toml", tmp_path / "net", coarse, *more)
    assert said["config"]["labels"] is None


@pytest.mark.slow
def test_imagenet_with_stored_labels(tmp_path, coarse):
    for split, count in (("train", 1000), ("val", 8), ("test", 8)):
        tar_shard(tmp_path / f"{split}-000.tar", count)
    torch.manual_seed(0)
    arch = load_space(coarse).smallest
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "arch.json").write_text(arch.to_json())
    save_file(Network(arch).state_dict(), tmp_path / "teacher" / "weights.safetensors")
    data = ["--data", f"stream:{tmp_path}"]
    stored = ["--teacher", str(tmp_path / "teacher"), "--temperature", "0.2", "--epochs", "1", "--threads", "1"]
    assert main(["label", coarse, *data, *stored, "--out", str(tmp_path / "labels")]) == 0
    labels = ["--labels", str(tmp_path / "labels")]
    said = trained("imagenet_elasticvit.toml", tmp_path / "net", coarse, *data, *labels, "--batch-size", "4")
    assert said["config"]["labels"]
    assert said["config"]["label_smoothing"] == 0
