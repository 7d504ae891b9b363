"""How long measuring will take, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from nas.arch import Arch
from nas.cost import cost, operators
from nas.export.vit_graph import as_vit
from nas.latency.bench import Pace
from nas.latency.lasting import ENERGY_S
from nas.latency.measure import CHUNK, anchor_arch, chunks, glance, mib
from nas.latency.protocol import Effort, usual_effort
from nas.latency.runtimes import RUNTIMES, Subject, ahead
from nas.latency.target import LOCAL, Target

PREPARE_S = 0.05  # per network, beside
PREPARE_S_PER_MIB = 0.004  # drawing random weights and optimising the graph
EXPORT_S_PER_OPERATOR = 0.004  # where the network is no plain ViT, whose graph is written (2 to 8 ms, eight spaces)
ELSEWHERE_S_PER_MAC = 1e-10  # of a device that nothing is known of: one core that does 10 GMACs a second
STAND_IN = "onnxruntime"  # for the speed of this machine, where lowering the anchor would take long


def estimate_seconds(
    archs: Sequence[Subject],
    target: Target,
    *,
    anchor: Arch | None = None,
    effort: Effort | None = None,
    reference_ms: float | None = None,
    energy: bool = False,
) -> float:
    """About how long `measure_archs` with the same arguments takes undisturbed.

    The speed of the target follows from `reference_ms` where an earlier session found it. Otherwise a network is run a
    few times (0.1 s here, a connection elsewhere); not on a phone, where that takes as long as a session, nor where it
    would have to be lowered for many seconds first: there the speed is that of ONNX Runtime here, or a guess
    elsewhere, which may be several times off. Networks that are kept lowered take no time to lower. Raises as
    `measure_archs` does.
    """
    effort, pace = effort or usual_effort(), _pace(target)
    reference = anchor or anchor_arch()
    second_per_mac = _second_per_mac(target, reference, pace, reference_ms)
    sessions = sum(1 for _ in chunks(archs, CHUNK))
    subjects = [*archs, *[reference] * sessions]
    timings = effort.warmup + effort.timed
    total = sessions * pace.session_s
    for subject in subjects:
        run_s = cost(subject if isinstance(subject, Arch) else reference).macs * second_per_mac
        total += effort.rounds * (pace.visit_s + timings * max(pace.timing_s, run_s)) + pace.mib_s * mib(subject)
    return total + energy * ENERGY_S * len(archs) + _lower_s([*archs, reference], target)


def _pace(target: Target) -> Pace:
    if target.device == LOCAL:
        return Pace()
    from nas.latency.devices import find_device

    return find_device(target.device).pace


def _second_per_mac(target: Target, anchor: Arch, pace: Pace, reference_ms: float | None) -> float:
    if reference_ms is not None:
        return float(1e-3 * reference_ms / cost(anchor).macs)
    slow = target.spec.operator_s > 0
    if target.device != LOCAL and (slow or pace.visit_s):
        return ELSEWHERE_S_PER_MAC * target.batch
    seen = _stand_in(target) if slow else target
    return float(1e-3 * glance(seen).min_ms / cost(anchor_arch()).macs)


def _stand_in(target: Target) -> Target:
    target.check()
    return Target.parse(f"{LOCAL}/{STAND_IN}/{RUNTIMES[STAND_IN].precisions[0]}/t{target.threads}/b{target.batch}")


def _lower_s(subjects: Sequence[Subject], target: Target) -> float:
    """To lower and load each once."""
    total = sum(PREPARE_S + PREPARE_S_PER_MIB * mib(subject) for subject in subjects)
    if target.spec.operator_s:
        return total + ahead.lowering_s(ahead.to_lower(subjects, target), target)
    if target.spec.portable:
        archs = [subject for subject in subjects if isinstance(subject, Arch)]
        total += sum(EXPORT_S_PER_OPERATOR * len(operators(arch)) for arch in archs if as_vit(arch) is None)
    return total
