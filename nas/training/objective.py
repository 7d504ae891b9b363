"""What a training step optimises: which subnet learns from what, one subnet at a time.

Any sampler's step will do, except that the teacher `largest` has to be among its subnets. Teachers are subnets of the
same step, run before their students, or the moving average; a teacher from outside comes as targets
(`divergences.sparse_targets`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.arch import Arch
from nas.cost import macs_of
from nas.data import resize
from nas.errors import InputError
from nas.model import Supernet
from nas.training.divergences import Divergence, divergence, mean_prediction
from nas.training.gradients import Projection, cosine, left_as_found, take

Teacher = Literal["none", "largest", "average", "others", "cascade"]

_TEACHERS, _DIVERGENCES = get_args(Teacher), get_args(Divergence)
_TEMPERATURES = (0.01, 100.0)
_SHAPE = "TEACHER[:OPTION=VALUE,...], such as largest:divergence=alpha,temperature=1,weight=1"


@dataclass(frozen=True)
class Distil:
    """Who teaches whom inside a step, and how. `str(distil)` reads back as the same. InputError for what cannot be
    meant.

    none: all learn from the labels.
    largest: all but the space's largest learn from it, it from the labels (BigNAS, arXiv:2003.11142).
    average: all learn from the space's largest with averaged weights, and from the labels.
    others: the smallest learns from the mean prediction of the others, these from the labels (ElasticViT,
        arXiv:2303.09730).
    cascade: each learns from the next larger one, the largest from the labels (Scala, arXiv:2412.04786).

    A subnet that occurs twice in a step never teaches itself. `weight` is the share of the teacher in the loss of those
    who have one, the labels have the rest."""

    teacher: Teacher = "none"
    divergence: Divergence = "kl"
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise InputError(f"distillation {str(self)!r}: {problem}")

    def __str__(self) -> str:
        changed = [f"{f.name}={_text(v)}" for f in fields(self)[1:] if (v := getattr(self, f.name)) != f.default]
        return f"{self.teacher}:{','.join(changed)}" if changed else self.teacher

    @classmethod
    def parse(cls, text: str) -> Distil:
        """Reads `TEACHER[:OPTION=VALUE,...]`. Raises InputError that names the text and what was expected."""
        teacher, colon, rest = text.partition(":")
        options: dict[str, Any] = {}
        for item in rest.split(",") if colon else ():
            name, equals, value = (part.strip() for part in item.partition("="))
            if not equals or name in options or name not in {f.name for f in fields(cls)[1:]}:
                raise InputError(f"distillation {text!r}: {item!r} is not an option or there twice, expected {_SHAPE}")
            options[name] = value if name == "divergence" else _number(text, name, value)
        return cls(cast(Teacher, teacher.strip()), **options)

    def _problem(self) -> str:
        low, high = _TEMPERATURES
        if self.teacher not in _TEACHERS:
            return f"teacher is {self.teacher!r}, expected one of {', '.join(_TEACHERS)}, in {_SHAPE}"
        if self.divergence not in _DIVERGENCES:
            return f"divergence is {self.divergence!r}, expected {' or '.join(_DIVERGENCES)}"
        if not low <= self.temperature <= high:
            return f"temperature is {self.temperature:g}, expected {low:g} to {high:g}"
        if not 0 < self.weight <= 1:
            return f"weight is {self.weight:g}, expected more than 0 and at most 1; for hard labels alone choose 'none'"
        if self.teacher == "average" and self.weight == 1:
            return "weight is 1, so nobody would learn from the labels; expected less, such as average:weight=0.5"
        if self.teacher == "none" and (self.divergence, self.temperature, self.weight) != ("kl", 1, 1):
            return "without a teacher no option has an effect, expected 'none' alone"
        return ""


class Lesson(NamedTuple):
    """A subnet's place in the step, and the places of those whose mean prediction it learns from; without, it learns
    from the labels (and, of course, from the moving average where that teaches)."""

    student: int
    teachers: tuple[int, ...]


def lessons(teacher: Teacher, archs: Sequence[Arch], largest: Arch, *, by_cost: bool = False) -> list[Lesson]:
    """The lessons of a step, teachers before students: in the order given where nobody in the step teaches and
    `by_cost` is not asked for, else from the most MACs to the least. `largest` is the one that may teach: the space's.

    Raises InputError for a step that lacks a teacher."""
    _check_step(teacher, archs, largest)
    order, ids = list(range(len(archs))), [arch.id for arch in archs]
    if by_cost or teacher not in ("none", "average"):
        # By id, so that copies stand side by side; the largest first, also where something else has as many MACs.
        order.sort(key=lambda i: (ids[i] != largest.id, -macs_of(archs[i]), ids[i]))
    found = []
    for place, student in enumerate(order):
        before = tuple(i for i in order[:place] if ids[i] != ids[student])
        found.append(Lesson(student, _teachers(teacher, before, is_smallest=ids[student] == ids[order[-1]])))
    return found


Averaged = Callable[[Tensor, Arch], Tensor]
"""(images, arch) -> logits (B, K) of `arch` with averaged weights; leaves batch norms as they are. It is called without
gradients, in the step's precision, with images at the resolution of `arch`."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a step. `averaged` is needed where `distil` asks for the average; `project` settles conflicts between
    a step's largest subnet and the others (`gradients.Projection`); `bf16` runs networks, not losses, in bfloat16."""

    smoothing: float = 0.0
    bf16: bool = False
    distil: Distil = Distil()
    averaged: Averaged | None = None
    project: bool = False

    def __post_init__(self) -> None:
        if self.distil.teacher == "average" and self.averaged is None:
            raise InputError(f"distillation {str(self.distil)!r} without averaged weights; hand in `averaged`")

    def gradients(
        self, net: Supernet, archs: Sequence[Arch], images: Tensor, targets: Tensor, largest: Arch | None = None
    ) -> Tensor:
        """Adds to the weights' gradients that of the loss averaged over `archs`; returns their losses (k,), detached,
        in the order given: of a subnet with a teacher the distilled one, not its cross-entropy.

        images (B, C, R, R) at the largest resolution, each subnet sees them at its own; targets: class indices (B,) or
        class shares (B, K); `largest`, which may teach, is the space's unless given. One subnet at a time, so that
        memory holds the activations of one; nothing waits for an accelerator. InputError for a step that lacks a
        teacher."""
        largest = largest or net.space.largest
        plan = lessons(self.distil.teacher, archs, largest, by_cost=self.project)
        average = self._average(images, largest)
        projection = Projection(net.parameters()) if self.project else None
        said: dict[int, Tensor] = {}
        losses: dict[int, Tensor] = {}
        for place, teachers in plan:
            logits = self._run(net, images, archs[place])
            taught_by = mean_prediction([said[i] for i in teachers]) if teachers else average
            loss = self._loss(logits, targets, taught_by)
            (loss / len(archs)).backward()  # type: ignore[no-untyped-call]
            if projection and not losses:
                projection.largest_done()
            said[place], losses[place] = logits.detach(), loss.detach()
        if projection:
            projection.finish()
        return torch.stack([losses[place] for place in range(len(archs))])

    def _run(self, run: Averaged, images: Tensor, arch: Arch) -> Tensor:
        """Logits (B, K) in fp32."""
        seen = resize(images, arch.resolution)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits = run(seen, arch)
        return logits.float()

    def _average(self, images: Tensor, largest: Arch) -> Tensor | None:
        """What the largest with averaged weights says, (B, K), where it teaches."""
        if self.distil.teacher != "average" or self.averaged is None:
            return None
        with torch.no_grad():
            return self._run(self.averaged, images, largest)

    def _loss(self, logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
        """Mean over the batch, (); logits of student and teacher (B, K)."""
        if teacher is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        distil = self.distil
        soft = divergence(logits, teacher, distil.divergence, distil.temperature).mean()
        if distil.weight == 1:
            return soft
        return distil.weight * soft + (1 - distil.weight) * self._loss(logits, targets, None)


def conflict(
    net: Supernet,
    one: Sequence[Arch],
    other: Sequence[Arch],
    images: Tensor,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    bf16: bool = False,
) -> Tensor:
    """Cosine () between the gradients of two groups of subnets on one batch, each that of the group's mean loss on the
    targets, over the tensors that both use: 1 where they pull the same way, below 0 where one undoes what the other
    does. Gradients and batch norms are left as found. For logging: it costs as much as a step."""
    objective, found = Objective(smoothing=smoothing, bf16=bf16), []
    with left_as_found(net):
        for group in (one, other):
            objective.gradients(net, group, images, targets)
            found.append(take(net.parameters()))
    return cosine(*found)


def _check_step(teacher: Teacher, archs: Sequence[Arch], largest: Arch) -> None:
    if teacher == "largest" and largest not in archs:
        raise InputError(
            "distillation 'largest' in a step without the largest subnet of the space; choose the sandwich sampler, or "
            "a teacher that every step has: average, others or cascade"
        )
    if teacher in ("others", "cascade") and len(archs) < 2:
        raise InputError(
            f"distillation {teacher!r} in a step of one subnet, expected two or more; take more subnets a step, or "
            "choose the teacher average"
        )


def _teachers(teacher: Teacher, before: tuple[int, ...], *, is_smallest: bool) -> tuple[int, ...]:
    """Of a subnet's betters in the step, largest first, those that teach it."""
    match teacher:
        case "largest":
            return before[:1]
        case "cascade":
            return before[-1:]
        case "others" if is_smallest:
            return before
        case _:
            return ()


def _number(text: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"distillation {text!r}: {name} is {value!r}, expected a number, in {_SHAPE}") from None


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")
