"""`finetune`: rows of a front trained on by themselves, tried, averaged, judged, and put beside what they inherited.

The search split chooses among trials and makes soups; the test split is asked once, of what is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas.arch import Arch
from nas.cost import macs_of
from nas.errors import InputError, RunError, TrainError
from nas.files import write_whole
from nas.latency import Target
from nas.pipeline.delivering import Delivered, Delivery, Expense, write_delivered
from nas.pipeline.fitting import one_thread, recorded_facts, space_of
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.task import Task
from nas.pipeline.training import check_device
from nas.runs import Run, RunDir, asking
from nas.training import Plan, torch_threads
from nas.training import checkpoint as files
from nas.training.alone import Alone, begun_in, defaults, is_done, ranges
from nas.training.config import make_config

RECIPE = "recipe.json"
STARTS, TEACHERS = ("inherit", "scratch"), ("none", "largest")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights of a finetune, beside the supernet.

    start: from inherited weights or random ones; distil: from the supernet's largest subnet, or from labels alone; lr
    and batch_size None: the recipe's for such data."""

    epochs: float
    trials: int = 1
    start: str = "inherit"
    distil: str = "none"
    batch_size: int | None = None
    lr: float | None = None
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("start", self.start, STARTS), ("distil", self.distil, TEACHERS)):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}, expected {' or '.join(allowed)}")
        if self.trials < 1:
            raise InputError(f"trials is {self.trials}, expected at least 1")

    def check_same(self, begun: dict[str, Any], where: Path) -> None:
        """Raises `RunError` naming the first option that differs from what was begun with."""
        for name, asked in asdict(self).items():
            if begun.get(name) != asked:
                raise RunError(
                    f"{where} was finetuned with {name} {begun.get(name)}, asked for {asked}; repeat that, or choose "
                    "other rows: the test split is asked once of each model of a run"
                )


@dataclass(frozen=True)
class Finetuned:
    """What was delivered, what of the run's finetunes in all it costs, and what they say of the accuracy predictor."""

    run: Path
    models: list[Delivered]
    expense: Expense
    recalibration: str
    failed: list[str]


def finetune(
    path: str | Path,
    *,
    where: Sequence[str] = (),
    archs: Sequence[str] = (),
    epochs: float,
    trials: int = 1,
    ray: str | None = None,
    start: str = "inherit",
    distil: str = "none",
    supernet: str | Path | None = None,
    data: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    precision: str = "auto",
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    gpu_share: float = 1.0,
    listener: Listener = SILENT,
) -> Finetuned:
    """Finetune rows of a run's front: those that kept every expression of `where` before any was finetuned and, if
    `archs` names ids, are among these. `epochs`, `start`, `distil`, `batch_size`, `lr`, `precision`, `seed`: see
    `Recipe`.

    trials: hyper-parameters that are tried for each row, with ASHA and Optuna on Ray, and averaged where that helps
    (`greedy_soup`); one is trained in this process, unless `ray` (local, auto or an address) is given. supernet, data:
    where they lie now (None: where the run had them). threads: of torch in this process. gpu_share: of a GPU, for a
    trial on Ray with `device` cuda.

    Leaves models/ID/finetuned.safetensors, rows in evaluations.jsonl, the front and cards with the new accuracies.
    Repeating the call goes on, at every trial's last checkpoint. Raises InputError where nothing is chosen, for rows
    that are not of the front, for options that cannot be meant, RunError for rows finetuned otherwise before."""
    recipe = Recipe(
        epochs=epochs, trials=trials, start=start, distil=distil, batch_size=batch_size, lr=lr, precision=precision,
        seed=seed,
    )  # fmt: skip
    run = Run(path)
    chosen = chosen_rows(run, where, archs)
    check_done(run.path, chosen, recipe)
    cluster_at = ray if ray is not None or trials == 1 else "local"
    if cluster_at is None:
        check_device(device)
    task = task_of(run, supernet, data, listener)
    config = make_config(
        task.data, sampler="uniform", epochs=epochs, batch_size=batch_size, lr=lr, precision=precision, seed=seed
    )
    options = {
        "epochs": epochs,
        "batch_size": config.batch_size,
        "precision": precision,
        "seed": seed,
        "device": device,
    }
    failed: list[str] = []
    with one_thread(), torch_threads(threads), RunDir.reopen(path, recorded_facts()) as writer:
        for note in writer.notes:
            listener.say(note)
        waiting = [arch for arch in chosen if not Delivery.is_there(writer, arch)]
        jobs = [_job(writer.path, arch, task, recipe, options) for arch in waiting]
        if jobs:
            plan = _announce(jobs, recipe, listener, timed=cluster_at is None)
            jobs = jobs if plan is None else [job.planned(plan) for job in jobs]
            run_all = _here if cluster_at is None else _on_ray(cluster_at, gpu_share if device != "cpu" else 0.0)
            failed = run_all(jobs, recipe, listener, lambda job: _deliver(writer, task, job, recipe, listener))
        models, expense, said = write_delivered(writer, task, chosen, listener)
    return Finetuned(Path(path), models, expense, said, failed)


def chosen_rows(run: Run, where: Sequence[str], ids: Sequence[str]) -> list[Arch]:
    """The rows of the front that are asked for. Raises InputError where that is none, or not of the front."""
    if not where and not ids:
        raise InputError("no rows are chosen; say which with --where, such as 'accuracy>=0.9', or with --arch")
    if not len(run.front):
        raise RunError(f"{run.path} has no front yet; repeat its search command to go on")
    on_front = list(run.front["id"])
    for arch_id in ids:
        if arch_id not in on_front:
            raise InputError(f"{arch_id} is not a row of the front of {run.path}; its rows: {', '.join(on_front)}")
    before = run.front.assign(accuracy_finetuned=float("nan"))  # so that the same question has the same answer again
    held = list(asking.where(before, where)["id"])
    chosen = [arch_id for arch_id in held if not ids or arch_id in ids]
    if not chosen:
        among = f" of {', '.join(ids)}" if ids else ""
        asked = " and ".join(where)
        raise InputError(f"no row{among} of the front of {run.path} keeps {asked}; loosen it, see `nas pareto`")
    return [run.arch(arch_id) for arch_id in chosen]


def check_done(folder: Path, archs: Sequence[Arch], recipe: Recipe) -> None:
    """Raises RunError where any was finetuned by another recipe, before anything is read or written."""
    for arch in archs:
        for file in (Delivery.facts_of(folder, arch), folder / "finetune" / arch.id / RECIPE):
            if file.exists():
                try:
                    read = json.loads(file.read_text())
                except (OSError, ValueError) as error:
                    raise RunError(f"{file} cannot be read ({error}); restore it, or remove it") from None
                recipe.check_same(read.get("recipe", {}), file.parent)


def task_of(run: Run, supernet: str | Path | None, data: str | None, listener: Listener) -> Task:
    """The supernet and data that a run selected on. Raises InputError for another supernet, RunError for other data."""
    judged_on = run.inputs.get("judged_on")
    place = supernet or run.facts.get("supernet")
    if not place or not Path(place).exists():
        raise InputError(f"the supernet of {run.path} is not at {place}; say where it is with --supernet")
    target = None if judged_on is None else Target.parse(judged_on)
    task = Task.load(space_of(run), place, listener, target)
    if task.info.digest != (run.inputs.get("supernet") or {}).get("digest"):
        raise InputError(f"{place} is another supernet than {run.path} was searched in; give that with --supernet")
    return task if data is None else replace(task, info=replace(task.info, data=data))


def _job(folder: Path, arch: Arch, task: Task, recipe: Recipe, options: dict[str, Any]) -> Alone:
    place = folder / "finetune" / arch.id
    place.mkdir(parents=True, exist_ok=True)
    if not (place / RECIPE).exists():
        write_whole(place / RECIPE, json.dumps({"recipe": asdict(recipe)}, indent=1) + "\n")
    return Alone(
        arch=arch, data=task.data, folder=place.resolve(), net=task.net, inherits=recipe.start == "inherit",
        taught=recipe.distil == "largest", options=options, compared=recipe.trials > 1,
    )  # fmt: skip


def first_params(job: Alone, recipe: Recipe) -> dict[str, float]:
    """The hyper-parameters that are tried first."""
    return defaults(job.data, inherits=job.inherits, taught=job.taught, lr=recipe.lr)


def _announce(jobs: Sequence[Alone], recipe: Recipe, listener: Listener, *, timed: bool) -> Plan | None:
    """Says what all will cost; the plan of the costliest, where it can be timed here."""
    costliest = max(jobs, key=lambda job: macs_of(job.arch))
    share = sum(macs_of(job.arch) for job in jobs) / macs_of(costliest.arch)
    what = f"finetuning {len(jobs)} networks for {recipe.epochs:g} epochs, {recipe.trials} trials each"
    if not timed:
        work = costliest.work()
        macs, disk = recipe.trials * share * work.macs, recipe.trials * len(jobs) * work.disk_mib
        listener.say(f"{what}: at most {work.steps} steps each, {macs / 1e12:.3g} TMACs, {disk:.0f} MiB of disk")
        return None
    plan = costliest.plan()
    seconds, disk = recipe.trials * share * plan.seconds(), plan.disk_mib * len(jobs)
    listener.say(f"{what}: {plan.steps} steps each, about {seconds:.0f} s, {plan.precision}, {disk:.0f} MiB of disk")
    return plan


@dataclass(frozen=True)
class Trial:
    """One training of a job, as the room that knows Ray runs it: what is told last is the accuracy in the end."""

    job: Alone

    def __call__(self, params: Mapping[str, float], tell: Callable[[int, float], None]) -> None:
        done = self.job.train(params, tell)
        tell(done.steps, done.accuracy["largest"])


Deliver = Callable[[Alone], None]


def _here(jobs: Sequence[Alone], recipe: Recipe, listener: Listener, deliver: Deliver) -> list[str]:
    """One after the other, in this process."""
    for i, job in enumerate(jobs):
        stage = f"finetune {job.arch.id} ({i + 1} of {len(jobs)})"
        job.train(
            first_params(job, recipe),
            progress=lambda now, stage=stage: listener.progress(  # type: ignore[misc]
                stage, now.step, now.steps, f"loss {now.loss:.3f}, {now.images_per_second:.0f} images/s"
            ),
        )
        deliver(job)
    return []


def _on_ray(address: str, gpus: float) -> Callable[[Sequence[Alone], Recipe, Listener, Deliver], list[str]]:
    """On a cluster: of one trial each all rows at once, of several one row after the other."""

    def run_all(jobs: Sequence[Alone], recipe: Recipe, listener: Listener, deliver: Deliver) -> list[str]:
        from nas.distributed import Means, cluster, each, tune

        means, failed = Means(gpus=gpus), []
        with cluster(address):
            if recipe.trials == 1:
                listener.say(f"{len(jobs)} trainings on Ray at {address}")
                failed += each(
                    [Trial(job) for job in jobs], [first_params(job, recipe) for job in jobs],
                    folder=jobs[0].folder.parent / ".ray", means=means,
                    progress=lambda done, accuracy: listener.progress(
                        "finetune", done, len(jobs), f"accuracy {accuracy:.4f}"
                    ),
                )  # fmt: skip
                for job in jobs:
                    deliver(job)
                return failed
            for i, job in enumerate(jobs):
                stage = f"finetune {job.arch.id} ({i + 1} of {len(jobs)})"
                listener.say(f"{recipe.trials} trials of {job.arch.id} on Ray at {address}")
                listener.progress(stage, 0, recipe.trials)
                first = first_params(job, recipe)
                known = [params for params, _ in begun_in(job.folder)][: recipe.trials]
                failed += tune(
                    Trial(job), first=known or [first], ranges=ranges(first), trials=recipe.trials,
                    steps=job.steps, folder=job.folder / ".ray",
                    seed=recipe.seed, means=means,
                    progress=lambda done, accuracy, stage=stage: listener.progress(  # type: ignore[misc]
                        stage, done, recipe.trials, f"accuracy {accuracy:.4f}"
                    ),
                )  # fmt: skip
                deliver(job)
        return failed

    return run_all


def _deliver(writer: RunDir, task: Task, job: Alone, recipe: Recipe, listener: Listener) -> None:
    """Make of a job's finished trials what is delivered; what they needed to go on is removed."""
    trials = begun_in(job.folder)
    done = [(params, place) for params, place in trials if is_done(place)]
    if not done:
        raise TrainError(f"no trial of {job.arch.id} came to its end; see {job.folder}")
    device = torch.device(job.options["device"] if _has(job.options["device"]) else "cpu")
    found = Delivery(task, job, device).made([params for params, _ in done], [place for _, place in done])
    found.record(writer, {"recipe": asdict(recipe)}, trials=[place for _, place in trials])
    for _, place in trials:
        (place / files.CHECKPOINT).unlink(missing_ok=True)
    soup = "" if len(found.members) == 1 else f", a soup of {len(found.members)}"
    listener.say(f"{job.arch.id}: {100 * found.evaluation.accuracy:.2f} % on the search split{soup}")


def _has(device: str) -> bool:
    try:
        check_device(device)
    except InputError:
        return False
    return True
