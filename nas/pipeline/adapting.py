"""`adapt`: from a pretrained ViT to a front.

Its network becomes the largest of a space, its weights, put in order, become the supernet's, and then all goes on as
for any other supernet: train, search, verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas.errors import RunError
from nas.pipeline.calibrating import target_ends, target_keys
from nas.pipeline.judging import Judge
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.precision import judging_target
from nas.pipeline.predicted import check_targets
from nas.pipeline.running import Run
from nas.pipeline.searching import EVALUATIONS, search
from nas.pipeline.starting import START, Request, prepare
from nas.pipeline.training import check_device, train
from nas.pipeline.verifying import verify
from nas.runs import check_folder
from nas.search import Budget, check_reachable, parse_budget
from nas.space import SearchSpace
from nas.training import torch_threads
from nas.training.config import recipe

LR_SHARE = 0.5  # of the recipe's peak learning rate, which is made for random weights


def adapt(
    file: str | Path,
    data: str,
    *,
    budgets: Sequence[str | Budget],
    out: str | Path,
    head_dim: int | None = None,
    pixels: str | None = None,
    new_head: bool = False,
    evaluations: int = EVALUATIONS,
    precision: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    listener: Listener = SILENT,
    **options: Any,
) -> Run:
    """Search the parts of a pretrained plain ViT, a safetensors file under timm's names, for a front within budgets.

    head_dim, pixels, new_head: as in `Request`; precision: as of `search`; the other options are those of `train`. The
    supernet goes to `OUT-supernet`, with the `space.toml` that it is of. The front is verified where a budget names a
    target. Repeating the call goes on where it stopped. Raises InputError for a file that is no plain ViT, for data
    that do not fit, for budgets that nothing in the space holds, and for an `out` of another call."""
    out = Path(out)
    folder = supernet_folder(out)
    parsed = tuple(parse_budget(b) if isinstance(b, str) else b for b in budgets)
    check_targets(target_keys(parsed))
    judging_target(target_keys(parsed), precision)
    check_device(device)
    check_folder(out)
    if (out / "run.json").exists() and not (folder / START).exists():
        raise RunError(f"{out} holds a run, but {folder / START} is not there that it began with; give another --out")
    request = Request(Path(file), data, head_dim, pixels, new_head, seed)

    def check(space: SearchSpace) -> None:
        check_reachable(parsed, Judge(space, (), (), {}).ranges())
        check_reachable(parsed, target_ends(space, target_keys(parsed), (), listener))

    with torch_threads(threads):
        start = prepare(request, folder, torch.device(device), check, listener)
    asked = {name: value for name, value in options.items() if value is not None}
    asked = {"lr": LR_SHARE * recipe(start.data)["lr"], "start": start.weights} | asked
    train(start.space, start.data, folder, seed=seed, device=device, threads=threads, listener=listener, **asked)
    run = search(
        start.space, folder, budgets=parsed, out=out, evaluations=evaluations, precision=precision, seed=seed,
        listener=listener,
    )  # fmt: skip
    if any(budget.target for budget in parsed):
        verify(out, listener=listener)
        run = Run(out)
    return run


def supernet_folder(out: Path) -> Path:
    """Where the supernet of a run of `adapt` is: beside it."""
    return out.with_name(f"{out.name}-supernet")
