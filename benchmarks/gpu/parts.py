"""The parts of the benchmark; README.md says what each finds out."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import measure
import numpy as np
import torch
from bench import BATCH, SEED, Bench, Row
from noise import random_data
from training import Work, gradient, is_convolutional, learner_alone, learner_of, random_batch

import nas
from nas.training.config import TrainConfig
from nas.training.objective import Objective
from nas.training.optimise import Learner
from nas.training.ranks import Ranks
from nas.training.samplers import Setting, make_sampler
from nas.training.step import Batches, Watch

SAMPLERS = ("uniform", "sandwich", "complexity")
SUBNETS, STEPS, DRAWS = 3, 4, 1024  # DRAWS: about as many steps as use up what samplers draw ahead
MOST, FILLING_FLOP = 4096, 1e13  # images, and operations that keep a large GPU busy
BIG_BATCH = 256

Run = Callable[[], object]


def subnets(bench: Bench) -> None:
    """Three subnets of each space, inside the supernet and alone."""
    spaces = [nas.load_space(name) for name in bench.spaces]
    layouts = [(space, last) for space in spaces for last in (False, True) if not last or is_convolutional(space)]
    todo = sum(len(_chosen(space)) * len(_variants(last)) for space, last in layouts)
    for space, last in layouts:
        held = measure.held_bytes(bench.device)
        learner = learner_of(space, bench.device, last)
        for (name, arch), (precision, fill) in itertools.product(_chosen(space).items(), _variants(last)):
            about = {"space": space.name, "subnet": name, "precision": precision, "channels_last": last}
            compare = partial(_compare, bench, learner, arch, precision, last, held, bench.share(todo))
            images = _filling(int(nas.cost(arch).macs)) if fill else BATCH
            bench.case("subnets", about, partial(_largest_that_fits, compare, bench.few(images)))
            todo -= 1
        del learner, compare


def steps(bench: Bench) -> None:
    """Steps of three subnets, of architectures that are new in each, by each sampler; and the networks alone."""
    cases = list(itertools.product(bench.spaces, SAMPLERS))
    learners: dict[str, Learner] = {}
    for done, (name, sampler) in enumerate(cases):
        if name not in learners:
            learners[name] = learner_of(nas.load_space(name), bench.device)
        about = {"space": name, "sampler": sampler, "batch": bench.few(BATCH)}
        works: list[Work] = []
        until = bench.share(len(cases) - done)
        row = bench.case("steps", about, partial(_steps, bench, learners[name], sampler, until, works))
        if "error" not in row:
            bench.stepped.append((row, works))


def idle(bench: Bench) -> None:
    """Kernels, and the share of the time without any, of the steps timed before. Apart, since profiling slows down what
    comes after it."""
    for row, works in bench.stepped:
        about = {key: row[key] for key in ("space", "sampler", "batch")}
        bench.case("idle", about, partial(_idle, works, bench.device, row))


def syncs(bench: Bench) -> None:
    """Where a step waits for the GPU."""
    for name in bench.spaces:
        for stage, run in _stages(bench, nas.load_space(name)).items():
            run()
            bench.case("syncs", {"space": name, "stage": stage}, partial(_waits, run, bench.device))


def big(bench: Bench) -> None:
    """A large step: the largest subnet of the space, the smallest and one between."""
    space = nas.load_space(bench.big_space)
    cases = [("bf16", False), ("bf16", True), ("tf32", False)]
    for done, (precision, last) in enumerate(cases):
        about = {"space": space.name, "sampler": "sandwich", "precision": precision, "channels_last": last}
        run = partial(_big_step, bench, space, precision == "bf16", last, bench.share(len(cases) - done))
        bench.case("big", about, partial(_largest_that_fits, run, bench.few(BIG_BATCH)))


def graphs(bench: Bench) -> None:
    """A CUDA graph of one subnet's forward and backward, alone and inside the supernet; and of its whole step there."""
    _gains(bench, "graphs", ("alone", "inside"), lambda work: (_captured(work.gradients), work.gradients))
    if bench.device.type == "cuda":
        _gains(bench, "graphs", ("inside step",), lambda work: (_captured(_capturable(work).step), work.step))


def compiled(bench: Bench) -> None:
    """torch.compile of one subnet alone."""
    backend = "inductor" if bench.device.type == "cuda" else "aot_eager"

    def make(work: Work) -> tuple[Run, Run]:
        torch._dynamo.reset()
        fast = work.compiled(backend).gradients
        fast()
        return fast, work.gradients

    _gains(bench, "compile", ("alone",), make)


def _chosen(space: nas.SearchSpace) -> dict[str, nas.Arch]:
    """The ends, and of 99 uniform ones that in the middle by MACs."""
    X = space.sample(99, np.random.default_rng(SEED))
    middle = X[np.argsort(space.cost(X).macs)[49:50]]
    return {"smallest": space.smallest, "median": space.decode(middle)[0], "largest": space.largest}


def _variants(channels_last: bool) -> list[tuple[str, bool]]:
    """Precision, and whether the batch is to fill the GPU."""
    return [("bf16", True)] if channels_last else [("bf16", False), ("bf16", True), ("tf32", True)]


def _filling(macs: int) -> int:
    """A power of two of images whose forward and backward take about FILLING_FLOP."""
    return int(min(MOST, max(BATCH, 2 ** int(np.log2(FILLING_FLOP / (6 * macs))))))


def _largest_that_fits(run: Callable[[int], Row], batch: int) -> Row:
    """Of `run(batch)`, the batch halved as long as memory does not hold it."""
    while True:
        try:
            return {"batch": batch} | run(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2
        torch.cuda.empty_cache()


def _compare(
    bench: Bench, learner: Learner, arch: nas.Arch, precision: str, last: bool, held: int, until: float, batch: int
) -> Row:
    """`held`: bytes that the GPU held before the supernet came."""
    device, bf16, macs = bench.device, precision == "bf16", int(nas.cost(arch).macs)
    before = measure.held_bytes(device)
    data = random_batch(arch, batch, device, last)
    ours = measure.held_bytes(device) - before
    inside = Work(learner, (arch,), *data, bf16)
    mib = {"inside": _memory(inside, device, held)}
    before = measure.held_bytes(device) - ours
    alone = Work(learner_alone(learner.net, arch, last), (arch,), *data, bf16)
    mib["alone"] = _memory(alone, device, before)
    runs = {"inside": inside.gradients, "alone": alone.gradients, "inside step": inside.step, "alone step": alone.step}
    taken = measure.interleaved(runs, device, bench.effort, until, bench.rng)
    ratio, spread = measure.median_ratio(taken["inside"], taken["alone"])
    row: Row = {"mmacs": macs / 1e6, "rounds": len(taken["alone"]), "ratio": ratio, "spread": spread}
    row["step_ratio"] = measure.median_ratio(taken["inside step"], taken["alone step"])[0]
    for side in ("inside", "alone"):
        gradients, step = statistics.median(taken[side]), statistics.median(taken[f"{side} step"])
        row |= {f"{side}_images_s": batch / gradients, f"{side}_ms": 1e3 * gradients, f"{side}_step_ms": 1e3 * step}
        row[f"{side}_mfu"] = measure.utilisation(macs, batch / gradients, precision, measure.device_name(device))
        row[f"{side}_mib"] = mib[side]
    return row


def _memory(work: Work, device: torch.device, held: int) -> float | None:
    """Peak MiB of a step, once the optimiser has its moments."""
    work.step()
    return measure.peak_mib(work.step, device, held)


def _steps(bench: Bench, learner: Learner, name: str, until: float, works: list[Work]) -> Row:
    """Milliseconds a step: of architectures that never ran before (`fresh`), of the same again (`again`), again without
    the update (`gradients`), and of the networks alone, without update too. Leaves the last steps in `works`."""
    device, space = bench.device, learner.net.space
    data = random_batch(space.largest, bench.few(BATCH), device)
    draw = make_sampler(name, Setting(space, SUBNETS, SEED)).step
    numbers = itertools.count()
    taken: dict[str, list[float]] = {"fresh": [], "again": [], "gradients": [], "alone": []}
    for warm in range(-1, bench.effort.rounds):
        before = time.perf_counter()
        works[:] = [Work(learner, draw(next(numbers)).archs, *data) for _ in range(bench.few(STEPS))]
        alone = [
            Work(learner_alone(learner.net, arch), (arch,), w.images, w.targets) for w in works for arch in w.archs
        ]
        # the order matters: fresh ones are no longer fresh once they ran; a network's first run of two is not counted
        runs = {"fresh": [w.step for w in works], "again": [w.step for w in works]}
        runs |= {"gradients": [w.gradients for w in works], "first": [w.gradients for w in alone]}
        runs |= {"alone": [w.gradients for w in alone]}
        for key, each in runs.items():
            found = measure.seconds(partial(_all, each), device)
            if warm >= 0 and key in taken:
                taken[key].append(found / len(works))
        if taken["alone"] and 2 * time.perf_counter() - before > until:
            break
    ratio, spread = measure.median_ratio(taken["gradients"], taken["alone"])
    row: Row = {f"{key}_ms": 1e3 * statistics.median(values) for key, values in taken.items()}
    row |= {"rounds": len(taken["alone"]), "ratio": ratio, "spread": spread}
    return row | {"drawing_ms": 1e3 * _drawing_s(space, name, bench.few(DRAWS))}


def _all(runs: Sequence[Run]) -> None:
    for run in runs:
        run()


def _drawing_s(space: nas.SearchSpace, name: str, count: int) -> float:
    """Seconds of the host that drawing a step takes."""
    sampler = make_sampler(name, Setting(space, SUBNETS, SEED))
    before = time.perf_counter()
    for step in range(count):
        sampler.step(step)
    return (time.perf_counter() - before) / count


def _idle(works: list[Work], device: torch.device, row: Row) -> Row:
    """Busy time as profiled, over times without the profiler. None of it on a CPU."""
    found = measure.profiled(partial(_all, [work.step for work in works]), device)
    if device.type != "cuda":
        return {"kernels": found.kernels}
    busy_ms = 1e3 * found.seconds / len(works)
    shares = {f"idle_{key}": 1 - busy_ms / row[f"{key}_ms"] for key in ("fresh", "again")}
    return {"kernels": found.kernels / len(works), "busy_ms": busy_ms} | shares


def _stages(bench: Bench, space: nas.SearchSpace) -> dict[str, Run]:
    """The stages of a training step, each on what the one before it left."""
    device, learner, size = bench.device, learner_of(space, bench.device), bench.few(BATCH)
    config = TrainConfig(sampler="complexity", batch_size=size, steps=1000)
    batches = Batches(random_data(space, 4 * size), config, Ranks(device=device))
    sampler = make_sampler("complexity", Setting(space, SUBNETS, SEED))
    objective, watch, numbers = Objective(bf16=True), Watch(measure.ROOT, 0), itertools.count()
    images, targets = batches(0)
    draw = sampler.step(0)
    losses = norm = torch.zeros(SUBNETS, device=device)

    def batch() -> None:
        nonlocal images, targets
        images, targets = batches(next(numbers))

    def gradients() -> None:
        nonlocal draw, losses
        draw = sampler.step(next(numbers))
        losses = objective.gradients(learner.net, draw.archs, images, targets)

    def clip() -> None:
        nonlocal norm
        norm = torch.nn.utils.clip_grad_norm_(learner.net.parameters(), config.clip_norm)

    def update() -> None:
        found = [p.grad for p in learner.net.parameters()]
        learner.update(0.0, 0.9)
        for p, grad in zip(learner.net.parameters(), found, strict=True):
            p.grad = grad

    def note() -> None:
        watch.add(0, draw, losses, norm)

    return {"batch": batch, "gradients": gradients, "clip": clip, "watch": note, "update": update}


def _waits(run: Run, device: torch.device) -> Row:
    if device.type != "cuda":
        run()
        return {"places": "not looked for without CUDA"}
    places, raised = measure.synchronisations(run)
    return {"places": ", ".join(places) or "none", "raised": raised or "no"}


def _big_step(bench: Bench, space: nas.SearchSpace, bf16: bool, last: bool, until: float, batch: int) -> Row:
    device, held = bench.device, measure.held_bytes(bench.device)
    archs = make_sampler("sandwich", Setting(space, SUBNETS, SEED)).step(0).archs
    work = Work(learner_of(space, device, last), archs, *random_batch(space.largest, batch, device, last), bf16)
    mib = _memory(work, device, held)
    taken = measure.interleaved({"step": work.step}, device, bench.effort, until, bench.rng)["step"]
    step = statistics.median(taken)
    return {"step_ms": 1e3 * step, "images_s": batch / step, "mib": mib, "rounds": len(taken)}


def _gains(bench: Bench, part: str, sides: Sequence[str], make: Callable[[Work], tuple[Run, Run]]) -> None:
    """What `make` gains of the median subnet of each space; it returns the faster run and the plain one."""
    for done, name in enumerate(bench.spaces):
        space, until = nas.load_space(name), bench.share(len(bench.spaces) - done)
        arch, learner = _chosen(space)["median"], learner_of(space, bench.device)
        data = random_batch(arch, bench.few(BATCH), bench.device)
        for side in sides:
            work = Work(learner_alone(learner.net, arch) if side == "alone" else learner, (arch,), *data)
            about = {"space": name, "side": side, "batch": len(data[0])}
            bench.case(part, about, partial(_gain, bench, work, make, until))


def _gain(bench: Bench, work: Work, make: Callable[[Work], tuple[Run, Run]], until: float) -> Row:
    """Times of both, seconds that making the faster one took, the runs after which that pays, memory that it keeps, and
    how far its gradient is off: the norm of the difference over the norm."""
    work.step()
    work.gradients()
    expected, held = gradient(work.learner.net), measure.reserved_bytes(bench.device)
    before = time.perf_counter()
    fast, plain = make(work)
    made_s = time.perf_counter() - before
    fast()
    kept = measure.reserved_bytes(bench.device) - held
    found = gradient(work.learner.net)
    off = None if found is None or expected is None else float((found - expected).norm() / expected.norm())
    fast_s, plain_s = (
        statistics.median(measure.interleaved({"": run}, bench.device, bench.effort, until, bench.rng)[""])
        for run in (fast, plain)
    )
    pays_after = made_s / (plain_s - fast_s) if plain_s > fast_s else None
    row: Row = {"plain_ms": 1e3 * plain_s, "fast_ms": 1e3 * fast_s, "gain": plain_s / fast_s, "made_s": made_s}
    return row | {"pays_after": pays_after, "kept_mib": kept / measure.MIB, "off": off}


def _captured(run: Run) -> Run:
    """A run as one CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _all([run] * 3)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _capturable(work: Work) -> Work:
    for group in work.learner.optimiser.param_groups:
        group["capturable"] = True
    return work
