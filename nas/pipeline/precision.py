"""The precision that accuracies are of: that of what the targets run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nas.errors import InputError, TargetError
from nas.latency import Target
from nas.latency.target import LOCAL
from nas.pipeline.listener import Listener

PLAIN = "fp32"


def judging_target(keys: Iterable[tuple[str, str]], asked: str | None) -> Target | None:
    """The target, on this machine, that networks are judged on; None: torch, in fp32. keys: (metric, target) of every
    latency that is limited. asked: a precision, None for that of the targets.

    Raises InputError where targets compute in several precisions and none is asked for, or one that none computes in;
    TargetError where the runtime of a precision is not installed here.
    """
    targets = list(dict.fromkeys(target for _, target in keys))
    possible = list(dict.fromkeys(map(_precision_of, targets))) or [PLAIN]
    if asked is None and len(possible) > 1:
        raise InputError(
            f"the budgets' targets compute in {' and '.join(possible)}, and an accuracy is of one of them: say which "
            f"with --precision, or search once for each"
        )
    precision = asked or possible[0]
    if precision not in (*possible, PLAIN):
        raise InputError(f"no target computes in {precision!r}, expected --precision {' or '.join(possible)}")
    if precision == PLAIN:
        return None
    return _here(next(target for target in targets if _precision_of(target) == precision), precision)


def tell_precision(keys: Iterable[tuple[str, str]], judged_on: Target | None, listener: Listener) -> None:
    """Say what accuracies are of, where that is not what everybody takes for granted."""
    if judged_on is not None:
        listener.say(f"accuracies are those of {judged_on.precision} networks, as {judged_on} answers")
    judged = PLAIN if judged_on is None else judged_on.precision
    for target in dict.fromkeys(target for _, target in keys):
        if (timed := _precision_of(target)) != judged:
            listener.say(f"as asked, {target} is timed in {timed}, but accuracies are those of {judged} networks")


def _precision_of(target: str) -> str:
    """Of a target as text, which may be one that cannot be measured here."""
    return target.split("/")[2]


def _here(target: str, precision: str) -> Target:
    """The same runtime, precision and batch on this machine: what a file answers does not depend on the device."""
    _, *rest = (part for part in target.split("/") if not re.fullmatch(r"t\d+", part))
    try:
        here = Target.parse("/".join((LOCAL, *rest)))
        here.check()
    except TargetError as error:
        raise TargetError(
            f"accuracies in {precision} are found by running networks here, and that cannot be ({error}); mend "
            f"it, or ask for those of {PLAIN} networks: --precision {PLAIN}"
        ) from None
    if not here.spec.portable:
        raise TargetError(
            f"accuracies in {precision} on {here.runtime} cannot be found here, expected a runtime that reads "
            f"files; ask for those of {PLAIN} networks: --precision {PLAIN}"
        )
    return here
