"""Training: it learns, it goes on exactly, it stops with one clear line."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_spaces import TINY, mixed_space
from torch.nn import functional as F

from nas.cost import cost as nas_cost
from nas.data import load_data
from nas.errors import InputError, NasError, RunError, TrainError
from nas.model import extract
from nas.space import load_space
from nas.training import Plan, Setting, estimate, evaluate, load_supernet, train
from nas.training import checkpoint as files
from nas.training.config import make_config
from nas.training.objective import Objective
from nas.training.optimise import average_decay, learning_rate, new_learner
from nas.training.ranks import Ranks
from nas.training.samplers import Draw, Uniform
from nas.training.step import Batches, gradients

PLAN = Plan(steps=60, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=1.0)
SHORT = {"steps": 60, "batch_size": 16, "subnets_per_step": 3, "plan": PLAN}

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from nas.data import load_data
from nas.space import load_space
from nas.training import Plan, train
space, out, sampler = load_space(sys.argv[1]), sys.argv[2], sys.argv[3]
data = load_data("digits", resolution=8, in_channels=1)
say = lambda now: print(now.step, flush=True)
train(space, data, out, sampler=sampler, steps=200, batch_size=16, subnets_per_step=3, mixup=0.2,
      checkpoint_every_s=0.05, progress=say,
      plan=Plan(steps=200, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=1.0))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "tiny.toml"
    path.write_text(TINY)
    return load_space(path)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def data():
    return load_data("digits", resolution=8, in_channels=1, num_classes=10)


@pytest.fixture(scope="module")
def finished(tiny, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    return train(tiny, data, out, sampler="uniform", **SHORT)


def weights(folder):
    return files.load(folder / files.SUPERNET, "supernet")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def one_line(caught, *fragments):
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_training_learns(tiny, data, tmp_path):
    losses = []
    trained = train(
        tiny, data, tmp_path, steps=300, batch_size=32, plan=replace(PLAN, steps=300),
        progress=lambda now: losses.append(now.loss),
    )  # fmt: skip
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.3
    assert trained.accuracy["largest"] > 0.2  # chance is 0.1
    assert trained.accuracy.keys() == {"smallest", "largest"}
    assert trained.steps == 300
    manifest = json.loads((tmp_path / files.MANIFEST).read_text())
    assert manifest["data"]["hashes"] == data.hashes
    assert manifest["digest"] == trained.digest
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 301))


def test_the_supernet_file_holds_the_moving_average(tiny, finished):
    space, net, info = load_supernet(finished.directory, tiny)
    whole, _ = files.load(finished.checkpoint, "checkpoint")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, whole[f"average.{name}"])
    assert space.digest == tiny.digest
    assert info.digest == finished.digest
    assert not net.training


def test_the_log_tells_losses_by_cost_and_conflicts(tiny, data, tmp_path):
    """The means of the steps' losses by what subnets cost are those of the subnets drawn; what TensorBoard is told is
    the same."""
    steps, seen = 1000, []
    train(
        tiny, data, tmp_path, sampler="uniform", steps=steps, batch_size=4, subnets_per_step=2, precision="fp32",
        plan=replace(PLAN, steps=steps), progress=seen.append,
    )  # fmt: skip
    drawn = Uniform(Setting(tiny, 2, 0))
    edges = np.geomspace(*(nas_cost(arch).macs for arch in (tiny.smallest, tiny.largest)), 9)
    for step, now in enumerate(seen):
        places = [np.digitize(nas_cost(arch).macs, edges[1:-1]) for arch in drawn.step(step).archs]
        assert {i for i, loss in enumerate(now.losses) if loss is not None} == set(places)
        if len(set(places)) == 2:
            assert np.mean([loss for loss in now.losses if loss is not None]) == pytest.approx(now.loss)
    conflicts = {now.step: now.conflict for now in seen if now.conflict is not None}
    assert list(conflicts) == list(range(50, steps + 1, 50))
    assert all(-1 <= value <= 1 for value in conflicts.values())
    assert max(conflicts.values()) > 0.1  # both ends learn the same digits
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert {row["step"]: row["conflict"] for row in rows if "conflict" in row} == pytest.approx(conflicts, abs=1e-5)
    (events,) = (tmp_path / "events").iterdir()
    content = events.read_bytes()
    for name in (b"loss", b"conflict", b"loss_by_cost/7", b"images_per_second"):
        assert name in content


def test_repeating_a_finished_training_returns_it(tiny, data, finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.directory.iterdir()}
    again = train(tiny, data, finished.directory, sampler="uniform", **SHORT)
    assert again == finished
    assert {path.name: path.stat().st_mtime_ns for path in finished.directory.iterdir()} == before


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"steps": 61}, {"seed": 1}, {"sampler": "sandwich"}])
def test_other_options_for_the_same_folder_are_refused(tiny, data, finished, change):
    with pytest.raises(RunError) as caught:
        train(tiny, data, finished.directory, **{"sampler": "uniform"} | SHORT | change)
    one_line(caught, f"asked for {next(iter(change.values()))}", "another --out")


def test_another_space_or_other_data_are_refused(tiny, digits, data, finished):
    with pytest.raises(RunError) as caught:
        train(digits, data, finished.directory, sampler="uniform", **SHORT)
    one_line(caught, "is of space 'tiny'", "expected 'digits'")
    with pytest.raises(RunError, match="is of space"):
        load_supernet(finished.directory, digits)
    other = replace(data, train=data.train.take(np.arange(100)))
    with pytest.raises(RunError) as caught:
        train(tiny, other, finished.directory, sampler="uniform", **SHORT)
    one_line(caught, "is of other data")


class InterruptError(Exception):
    """Stands in for whatever ends a process in the middle."""


def stop_at(step):
    def progress(now):
        if now.step == step:
            raise InterruptError

    return progress


@pytest.mark.parametrize("sampler", ["uniform", "complexity", "sandwich"])
def test_going_on_after_an_interruption_ends_with_the_same_bits(tiny, data, tmp_path, sampler):
    options = {"sampler": sampler, "mixup": 0.2, "label_smoothing": 0.1, **SHORT}
    train(tiny, data, tmp_path / "whole", **options)
    for step in (7, 23, 24, 59):  # checkpoints at every step, so it goes on from the step before
        with pytest.raises(InterruptError):
            train(tiny, data, tmp_path / "parts", **options, checkpoint_every_s=0.0, progress=stop_at(step))
    train(tiny, data, tmp_path / "parts", **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    lines = (tmp_path / "parts" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(tiny_file, tmp_path):
    """SIGKILL at moments of no one's choosing; the repeated command must end where the undisturbed one does."""

    def start(out):
        command = [sys.executable, "-c", SCRIPT, str(tiny_file), str(out), "complexity"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert start(tmp_path / "whole").wait(timeout=240) == 0
    rng, reached, kills = np.random.default_rng(int(time.time())), [], 0
    while not (tmp_path / "parts" / files.MANIFEST).exists():
        process = start(tmp_path / "parts")
        first = process.stdout.readline()
        if first and kills < 3:
            reached.append(int(first))
            time.sleep(rng.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=240)
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 2
    assert reached == sorted(reached)
    assert reached[-1] > 1
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_second_writer_is_refused(tiny, data, tmp_path):
    with files.writing(tmp_path), pytest.raises(RunError, match="another process is writing into"):
        train(tiny, data, tmp_path, **SHORT)


def test_loss_that_is_not_finite(tiny, data, tmp_path):
    def spoil(now):
        if now.step == 5:
            normal.mean = (float("nan"),)

    class Normal:
        mean, std = data.normalise.mean, data.normalise.std

        def __call__(self, images):
            return (images.float() - self.mean[0]) / self.std[0]

    normal = Normal()
    with pytest.raises(TrainError) as caught:
        train(
            tiny, replace(data, normalise=normal), tmp_path, sampler="uniform",
            **SHORT, checkpoint_every_s=0.0, progress=spoil,
        )  # fmt: skip
    drawn = Uniform(Setting(tiny, 3, 0))
    archs = [drawn.step(step) for step in range(6)][5].archs
    one_line(caught, "step 5", archs[0].id, "loss", files.CHECKPOINT, "(step 5)")
    tensors, meta = files.load(tmp_path / files.CHECKPOINT, "checkpoint")
    assert meta["step"] == 5
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_diverging_weights_are_never_checkpointed(tiny, data, tmp_path):
    with pytest.raises(TrainError):
        train(tiny, data, tmp_path, **SHORT, lr=10.0, clip_norm=1e6, weight_decay=10.0, warmup=0.0, precision="fp32",
              checkpoint_every_s=0.0, progress=lambda now: overflow(tmp_path, now))  # fmt: skip
    tensors, _ = files.load(tmp_path / files.CHECKPOINT, "checkpoint")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def overflow(folder, now):
    if now.step == 50:
        raise TrainError("did not diverge within 50 steps, which is as good")


@pytest.mark.parametrize(("keep", "fragment"), [(0, "truncated"), (100, "truncated"), (-1, "truncated")])
def test_truncated_checkpoint(tiny, data, tmp_path, keep, fragment):
    with pytest.raises(InterruptError):
        train(tiny, data, tmp_path, **SHORT, progress=stop_at(3))
    path = tmp_path / files.CHECKPOINT
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError) as caught:
        train(tiny, data, tmp_path, **SHORT)
    one_line(caught, str(path), fragment)


def test_damaged_and_foreign_files(finished, tmp_path):
    from safetensors.torch import save_file

    whole = bytearray(finished.supernet.read_bytes())
    whole[-100] ^= 1
    (tmp_path / files.SUPERNET).write_bytes(whole)
    with pytest.raises(RunError) as caught:
        load_supernet(tmp_path)
    one_line(caught, "damaged")
    save_file({"x": torch.zeros(1)}, tmp_path / files.SUPERNET)
    with pytest.raises(RunError) as caught:
        load_supernet(tmp_path)
    one_line(caught, "foreign")
    with pytest.raises(RunError) as caught:
        load_supernet(finished.checkpoint)
    one_line(caught, "is checkpoint, expected a supernet")
    with pytest.raises(RunError, match="missing"):
        load_supernet(tmp_path / "nowhere")


def test_unfinished_training_is_no_supernet(tiny, data, tmp_path):
    with pytest.raises(InterruptError):
        train(tiny, data, tmp_path, **SHORT, progress=stop_at(3))
    with pytest.raises(RunError, match="not finished"):
        load_supernet(tmp_path)


def test_unwritable_out(tiny, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        train(tiny, data, tmp_path / "file" / "out", **SHORT)
    one_line(caught, "cannot write into")


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A limit on the size of files stands in for a full disk: the write stops half-way in either case."""
    path = tmp_path / files.CHECKPOINT
    files.save(path, "checkpoint", {"x": torch.ones(10)}, {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(TrainError) as caught:
            files.save(path, "checkpoint", {"x": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(caught, str(path), "is intact", "free")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_too_little_disk_is_said_before_training(tiny, data, tmp_path):
    with pytest.raises(RunError) as caught:
        train(tiny, data, tmp_path, **SHORT | {"plan": replace(PLAN, disk_mib=1e12)})
    one_line(caught, "MiB", "are free")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"steps": None}, None),
        ({"epochs": 3}, "steps and epochs"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"sampler": "best"}, "unknown sampler 'best'"),
    ],
)
def test_options_that_make_no_sense(tiny, data, tmp_path, options, fragment):
    if fragment is None:
        assert make_config(data).steps == 3000
        return
    with pytest.raises(InputError) as caught:
        train(tiny, data, tmp_path / "out", **SHORT | options)
    one_line(caught, fragment)
    assert not (tmp_path / "out" / files.CHECKPOINT).exists()


def test_a_sandwich_gets_its_three_layers_at_equal_cost(data):
    thin, sandwich = make_config(data), make_config(data, sampler="sandwich")
    assert sandwich.subnets_per_step == 3
    assert sandwich.steps * 3 == thin.steps * thin.subnets_per_step


def test_finished_training_that_was_tampered_with(tiny, data, finished, tmp_path):
    (tmp_path / files.MANIFEST).write_text("{}")
    with pytest.raises(RunError) as caught:
        train(tiny, data, tmp_path, sampler="uniform", **SHORT)
    one_line(caught, files.SUPERNET, "is gone")
    (tmp_path / files.SUPERNET).write_bytes(finished.supernet.read_bytes())
    with pytest.raises(RunError) as caught:
        train(tiny, data, tmp_path, sampler="uniform", **SHORT)
    one_line(caught, files.MANIFEST, "cannot be read")


def test_data_of_another_shape_than_the_space(data, tmp_path):
    with pytest.raises(InputError, match="resolution 8, space 'vit_cifar' expects 32"):
        train(load_space("vit_cifar"), data, tmp_path, **SHORT)
    with pytest.raises(InputError, match="num_classes 10, space 'digits' expects 7"):
        estimate(load_space("digits", num_classes=7), data)


def test_estimate_counts_and_times(tiny, data):
    plan = estimate(tiny, data, sampler="uniform", steps=100, batch_size=16, subnets_per_step=3)
    drawn = Uniform(Setting(tiny, 3, 0))
    rows = tiny.encode([arch for step in range(300) for arch in drawn.step(step).archs])
    expected = 100 * 3 * 16 * 3 * tiny.cost(rows).macs.mean()
    assert plan.macs == pytest.approx(expected, rel=0.1)
    assert plan.steps == 100
    assert plan.precision == "fp32"
    assert plan.seconds() > plan.seconds(50) > 0
    by_time = estimate(tiny, data, sampler="uniform", minutes=0.1, batch_size=16)
    assert by_time.steps == pytest.approx(0.95 * 6 / by_time.step_s, abs=1)
    assert estimate(tiny, data, epochs=2.0, batch_size=16).steps == round(2 * len(data.train) / 16)


def test_an_estimate_is_the_plan_of_the_training(tiny, data, tmp_path):
    """But for times, which are taken anew: also with a teacher, and with levels of another figure than MACs."""

    class Unsure:
        classes, digest = 10, "0" * 32

        def __call__(self, images):
            return torch.full((len(images), 10), 0.1)

    def depth(rows):
        return np.array([sum(len(stage.blocks) for stage in arch.stages) for arch in tiny.decode(rows)], dtype=float)

    options = {"epochs": 0.1, "batch_size": 16, "precision": "fp32", "sampler": "complexity:shared=no,adjacent=no"}
    more = options | {"labels": Unsure(), "measure": depth}
    for name, given in (("plain", options), ("more", more)):
        heard = []
        made = estimate(tiny, data, **given)
        train(tiny, data, tmp_path / name, **given, announce=lambda plan, done, heard=heard: heard.append(plan))
        assert replace(made, step_s=0.0) == replace(heard[0], step_s=0.0)
    assert made.macs != pytest.approx(estimate(tiny, data, **options).macs, rel=0.01)


def test_minutes_are_turned_into_steps_once(tiny, data, tmp_path):
    seen = []
    options = {"sampler": "uniform", "minutes": 0.005, "batch_size": 16}
    with pytest.raises(InterruptError):
        train(tiny, data, tmp_path, **options, announce=lambda plan, done: seen.append(plan), progress=stop_at(2))
    train(tiny, data, tmp_path, **options, announce=lambda plan, done: seen.append(plan))
    assert seen[0] == seen[1]


def test_gradients_are_those_of_the_mean_loss(tiny, data):
    learner = new_learner(tiny, make_config(data), torch.device("cpu"))
    archs = (tiny.smallest, tiny.largest)
    images, targets = data.normalise(data.train.images[:16]), data.train.labels[:16]
    losses = Objective(smoothing=0.1).gradients(learner.net, archs, images, targets)
    found = {name: p.grad.clone() for name, p in learner.net.named_parameters()}
    learner.net.zero_grad()
    expected = [F.cross_entropy(learner.net(images, arch), targets, label_smoothing=0.1) for arch in archs]
    torch.stack(expected).mean().backward()
    assert torch.allclose(losses, torch.stack(expected))
    for name, p in learner.net.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=1e-6), name


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tiny, data):
    whole, parts = (new_learner(tiny, make_config(data), torch.device("cpu")) for _ in range(2))
    archs = (tiny.smallest, tiny.largest)
    images, targets = data.normalise(data.train.images[:16]), data.train.labels[:16]
    expected = gradients(Objective(), whole.net, Draw(archs), images, targets)
    found = gradients(Objective(), parts.net, Draw(archs), images, targets, parts=4)
    torch.testing.assert_close(found, expected)
    for p, q in zip(parts.net.parameters(), whole.net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_split_batch_gives_each_subnet_its_part(tiny, data):
    parts, alone = (new_learner(tiny, make_config(data), torch.device("cpu")) for _ in range(2))
    archs = (tiny.smallest, tiny.largest)
    images, targets = data.normalise(data.train.images[:16]), data.train.labels[:16]
    losses = gradients(Objective(), parts.net, Draw(archs), images, targets, split=True)
    for arch, half, loss in zip(archs, (slice(0, 8), slice(8, 16)), losses, strict=True):
        expected = F.cross_entropy(alone.net(images[half], arch), targets[half])
        assert float(loss) == pytest.approx(expected.item())
        (expected / 2).backward()
    for p, q in zip(parts.net.parameters(), alone.net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    twice = gradients(Objective(), parts.net, Draw(archs), images, targets, parts=2, split=True)
    assert twice.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "uniform", "distil": "largest"}, "choose the sandwich sampler"),
        ({"sampler": "uniform", "subnets_per_step": 1, "distil": "cascade"}, "expected two or more"),
        ({"distil": "teacher"}, "expected one of none, largest"),
        ({"split": True, "distil": "cascade"}, "which distillation 'cascade' needs"),
        ({"split": True, "project": True}, "which project needs"),
        ({"split": True, "subnets_per_step": 3}, "expected a multiple of 3 subnets"),
        ({"sampler": "uniform", "measure": lambda X: X[:, 0]}, "asks for no cost"),
        ({"accumulate": 3}, "expected a multiple of accumulate=3"),
        ({"clip_adaptive": 0.0}, "clip_adaptive is 0.0"),
        ({"coarse_first": 0.5}, "has one resolution and one patch size"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_before_a_folder_is_made(tiny, data, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(tiny, data, tmp_path / "new", **SHORT | options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "sandwich", "distil": "largest:divergence=alpha", "project": True},
        {"sampler": "complexity:ends=yes,adaptive=yes", "distil": "cascade", "clip_adaptive": 0.1, "accumulate": 2},
        {"sampler": "uniform", "distil": "average:weight=0.5"},
        {"sampler": "performance:every=2,bank=2", "distil": "others"},
        {"sampler": "attentive:levels=2"},
        {"sampler": "uniform", "split": True, "subnets_per_step": 2},
        {"sampler": "nested:rest=yes"},
    ],
)
def test_every_way_to_train_goes_on_exactly(tiny, data, tmp_path, options):
    options = SHORT | {"steps": 30, "plan": replace(PLAN, steps=30)} | options
    train(tiny, data, tmp_path / "whole", **options)
    for step in (7, 19):
        with pytest.raises(InterruptError):
            train(tiny, data, tmp_path / "parts", **options, checkpoint_every_s=0.0, progress=stop_at(step))
    train(tiny, data, tmp_path / "parts", **options)
    whole, parts = (load_supernet(tmp_path / name)[1].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_coarse_images_come_first(data, tmp_path):
    """Its steps cost less, and it goes on exactly; the largest of a coarse step teaches there."""
    space = mixed_space()
    options = {"sampler": "sandwich", "distil": "largest", "steps": 20, "batch_size": 16, "precision": "fp32"}
    whole = estimate(space, data, **options)
    coarse = estimate(space, data, **options, coarse_first=0.5)
    assert 0.7 * whole.macs < coarse.macs < 0.95 * whole.macs  # a quarter of the steps at 6 of 8 pixels
    options |= {"plan": replace(PLAN, steps=20), "coarse_first": 0.5}
    train(space, data, tmp_path / "whole", **options)
    with pytest.raises(InterruptError):
        train(space, data, tmp_path / "parts", **options, checkpoint_every_s=0.0, progress=stop_at(4))
    train(space, data, tmp_path / "parts", **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_levels_are_of_what_is_measured(tiny, data, tmp_path):
    def params(X):
        return tiny.cost(X).params

    options = SHORT | {"sampler": "complexity:levels=3", "steps": 20, "plan": replace(PLAN, steps=20)}
    train(tiny, data, tmp_path, **options, measure=params)
    with pytest.raises(RunError, match="begun with measure="):
        train(tiny, data, tmp_path, **options)
    with pytest.raises(RunError, match="begun with measure="):
        train(tiny, data, tmp_path, **options, measure=lambda X: 2.0 * params(X))


def test_blocks_that_no_subnet_used_stay_as_they_are(tiny, data):
    """And unused slices of used tensors move by momentum and decay alone: the documented choice."""
    learner = new_learner(tiny, make_config(data), torch.device("cpu"))
    images, targets = data.normalise(data.train.images[:16]), data.train.labels[:16]

    def step(arch):
        Objective().gradients(learner.net, (arch,), images, targets)
        grads = {name: None if p.grad is None else p.grad.clone() for name, p in learner.net.named_parameters()}
        learner.update(1e-3, 0.9)
        return grads

    step(tiny.largest)
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    moments = {p: {k: v.clone() for k, v in state.items()} for p, state in learner.optimiser.state.items()}
    grads = step(tiny.smallest)
    deep = [name for name in grads if ".1." in name or ".2." in name]
    assert deep
    for name, p in learner.net.named_parameters():
        if name in deep:
            assert grads[name] is None
            assert torch.equal(p, before[name]), name
            assert all(torch.equal(v, moments[p][k]) for k, v in learner.optimiser.state[p].items())
    name, weight = next((n, p) for n, p in learner.net.named_parameters() if n.endswith("0.mlp.fc1.weight"))
    unused = weight[tiny.smallest.stages[0].blocks[0].mlp :]
    assert not grads[name][tiny.smallest.stages[0].blocks[0].mlp :].any()
    assert not torch.equal(unused, before[name][tiny.smallest.stages[0].blocks[0].mlp :])


def test_restored_learner_goes_on_exactly(tiny, data):
    config = make_config(data, batch_size=16)
    batches = Batches(data, config, Ranks())

    def steps(learner, start, stop):
        for step in range(start, stop):
            arch = tiny.smallest if step % 3 else tiny.largest
            Objective().gradients(learner.net, (arch,), *batches(step))
            learner.update(1e-3, 0.9)

    whole, part, other = (new_learner(tiny, config, torch.device("cpu")) for _ in range(3))
    steps(whole, 0, 8)
    steps(part, 0, 5)
    other.restore({name: tensor.clone() for name, tensor in part.tensors().items()})
    steps(other, 5, 8)
    assert same(whole.tensors(), other.tensors())


def test_learning_rate_warms_up_and_falls_to_zero(data):
    config = make_config(data, steps=100, lr=1.0, warmup=0.1)
    rates = np.array([learning_rate(step, 100, config) for step in range(100)])
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates.max() == pytest.approx(1.0)
    assert 0 < rates[-1] < 1e-3
    decays = [average_decay(step, 100, config) for step in range(100)]
    assert decays == sorted(decays)
    assert decays[-1] == pytest.approx(0.5)


def test_evaluation_agrees_with_extracted_networks(tiny, data, finished):
    _, net, info = load_supernet(finished.directory)
    archs = tiny.decode(tiny.sample(5, np.random.default_rng(0)))
    found = evaluate(net, archs, data.search, normalise=info.normalise, batch_size=100)
    assert found == evaluate(net, archs, data.search, normalise=info.normalise, batch_size=100)
    for arch, result in zip(archs, found, strict=True):
        model = extract(net, arch).eval()
        with torch.no_grad():
            logits = model(data.normalise(data.search.images)).numpy().astype(np.float64)
        labels = data.search.labels.numpy()
        assert result.accuracy == np.mean(logits.argmax(1) == labels)
        logits -= logits.max(1, keepdims=True)
        loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
        assert result.loss == pytest.approx(loss.mean(), rel=1e-5)
        assert result.images == len(labels)


def test_evaluation_leaves_mode_and_threads_alone(tiny, data):
    net = new_learner(tiny, make_config(data), torch.device("cpu")).net
    threads = torch.get_num_threads()
    evaluate(net, [tiny.smallest], data.search.take(np.arange(10)), normalise=data.normalise, threads=1)
    assert net.training
    assert torch.get_num_threads() == threads


def test_errors_are_the_trees(tiny, data, tmp_path):
    with pytest.raises(NasError):
        train(tiny, data, tmp_path, steps=1, epochs=1.0)
