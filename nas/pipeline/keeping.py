"""What every row of a front has under `models/<id>/`: its architecture, its weights, its card."""

from __future__ import annotations

from nas.pipeline.cards import write_cards
from nas.pipeline.running import WEIGHTS
from nas.pipeline.selecting import write_model
from nas.pipeline.task import Task
from nas.runs import INHERITED, Run, RunDir

INHERITED_WEIGHTS, CARD = WEIGHTS[INHERITED], "card.md"
FILES = ("arch.json", INHERITED_WEIGHTS, CARD)


def missing_files(run: Run) -> dict[str, list[str]]:
    """By id of a row of the front, what its folder lacks; rows that have everything are left out."""
    folders = {str(arch_id): run.path / "models" / str(arch_id) for arch_id in run.front["id"]}
    lacks = {arch_id: [n for n in FILES if not (folder / n).is_file()] for arch_id, folder in folders.items()}
    return {arch_id: names for arch_id, names in lacks.items() if names}


def complete_models(run: RunDir, task: Task) -> None:
    """Write what a finished run lacks of its models; files that are there stay as they are."""
    read = Run(run.path)
    lacks = missing_files(read)
    for arch_id, names in lacks.items():
        arch = read.arch(arch_id)
        run.write_arch(arch)
        if INHERITED_WEIGHTS in names:
            write_model(run, task, arch)
        task.listener.say(f"models/{arch_id} lacked {', '.join(names)}, written again")
    if any(CARD in names for names in lacks.values()):
        write_cards(run)
