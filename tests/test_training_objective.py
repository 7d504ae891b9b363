"""What a step optimises: each loss and each rule for gradients against a second definition, in double precision or with
plain networks that share nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_spaces import TINY, mixed_space
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nas.cost import cost
from nas.data import resize
from nas.errors import InputError
from nas.model import Supernet, extract
from nas.space import space_from_toml
from nas.training.divergences import divergence, mean_prediction, sparse_targets
from nas.training.gradients import Projection, clip_adaptive_, cosine
from nas.training.objective import Distil, Objective, conflict, lessons

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 10, (12,), generator=torch.Generator().manual_seed(2))
SHARES = F.one_hot(LABELS, 10).float().lerp(F.one_hot(LABELS.flip(0), 10).float(), 0.3)


def randomised(space):
    """Also what starts at 0 or 1, as norms do, and so would hide a mistake."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = Supernet(space).train()
        for p in net.parameters():
            p.add_(0.4 * torch.randn(p.shape))
    return net


@pytest.fixture(scope="module")
def tiny():
    return randomised(space_from_toml(TINY))


@pytest.fixture(scope="module")
def mixed():
    return randomised(mixed_space())


@pytest.fixture(autouse=True)
def no_gradients_left(tiny, mixed):
    yield
    for net in (tiny, mixed):
        net.zero_grad()


def plain_gradients(net, archs, images, targets, smoothing=0.0, bf16=False):
    """Labels alone, written once more."""
    losses = []
    for arch in archs:
        seen = F.interpolate(images, (arch.resolution,) * 2, mode="bilinear", antialias=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(images if arch.resolution == images.shape[-1] else seen, arch)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        (loss / len(archs)).backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def some(net, n, seed=3, **fixed):
    """Distinct architectures with neither end of the space among them."""
    rows = net.space.decode(net.space.sample(8 * n, np.random.default_rng(seed), over="genes"))
    ends = {net.space.largest, net.space.smallest}
    return list(dict.fromkeys(arch for arch in rows if arch not in ends))[:n]


def by_macs(archs):
    return sorted(archs, key=lambda arch: int(cost(arch).macs), reverse=True)


def grads(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def equal(ours, theirs):
    return all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-6)


def one_line(caught, *fragments):
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


# Divergences


def softmax(row):
    exps = [math.exp(x - max(row)) for x in row]
    return [x / sum(exps) for x in exps]


def slow_kl(student, teacher, temperature):
    q, p = ([*softmax([x / temperature for x in row])] for row in (student, teacher))
    return temperature**2 * sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))


def slow_minus(student, teacher, temperature):
    q, p = ([*softmax([x / temperature for x in row])] for row in (student, teacher))
    return temperature**2 * 0.5 * (sum(a * min(a / b, 5) for a, b in zip(q, p, strict=True)) - 1)


def slow_alpha(student, teacher, temperature):
    return max(slow_kl(student, teacher, temperature), slow_minus(student, teacher, temperature))


def pairs(rows=64, classes=7, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(scale=scale, size=(2, rows, classes)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("kind", "slow"), [("kl", slow_kl), ("alpha", slow_alpha)])
def test_divergences_are_their_definitions(kind, slow, temperature):
    student, teacher = pairs()
    found = divergence(student, teacher, kind, temperature)
    expected = [slow(*rows, temperature) for rows in zip(student.tolist(), teacher.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    single = divergence(student.float(), teacher.float(), kind, temperature)
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_both_sides_of_alpha_and_its_clip_are_seen_above():
    rows = list(zip(*(each.tolist() for each in pairs()), strict=True))
    greater = [slow_minus(s, t, 1.0) > slow_kl(s, t, 1.0) for s, t in rows]
    clipped = [any(a > 5 * b for a, b in zip(softmax(s), softmax(t), strict=True)) for s, t in rows]
    assert 5 < sum(greater) < 59
    assert 5 < sum(clipped) < 64


@pytest.mark.parametrize("kind", ["kl", "alpha"])
def test_gradients_of_divergences_are_those_of_their_values_where_nothing_is_clipped(kind):
    student, teacher = pairs(rows=24, scale=0.35)  # ratios stay below 5
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    apart = [abs(slow_kl(*row, 2.0) - slow_minus(*row, 2.0)) > 1e-4 for row in rows]
    minus = [slow_minus(*row, 2.0) > slow_kl(*row, 2.0) for row in rows]
    assert 3 < sum(a and m for a, m in zip(apart, minus, strict=True)) < sum(apart) - 3
    keep = torch.tensor(apart)
    free = student[keep].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x, teacher[keep], kind, 2.0), free)


def test_gradient_of_clipped_alpha_has_clipped_weights():
    """sum_i q_i min(q_i / p_i, 5) grad(log q_i), by finite differences of each log q_i."""
    student, teacher = (each.tolist() for each in pairs())
    rows = [i for i in range(64) if slow_minus(student[i], teacher[i], 1.0) > slow_kl(student[i], teacher[i], 1.0)]
    free = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    divergence(free, torch.tensor(teacher, dtype=torch.float64), "alpha").sum().backward()
    clipped = 0
    for i in rows:
        q, p = softmax(student[i]), softmax(teacher[i])
        weights = [a * min(a / b, 5) for a, b in zip(q, p, strict=True)]
        clipped += any(a > 5 * b for a, b in zip(q, p, strict=True))
        for j in range(7):
            up, down = ([x + s * (k == j) for k, x in enumerate(student[i])] for s in (1e-6, -1e-6))
            slopes = [(math.log(a) - math.log(b)) / 2e-6 for a, b in zip(softmax(up), softmax(down), strict=True)]
            assert float(free.grad[i, j]) == pytest.approx(np.dot(weights, slopes), abs=1e-7)
    assert clipped > 5


@given(st.integers(0, 10**6), st.floats(0.01, 300), st.sampled_from(["kl", "alpha"]))
@settings(max_examples=60)
def test_divergences_are_finite_never_negative_and_zero_for_equals(seed, scale, kind):
    student, teacher = pairs(rows=8, scale=scale, seed=seed).float()
    student.requires_grad_()
    found = divergence(student, teacher, kind)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()
    assert (found > -1e-5).all()
    assert divergence(student, student, kind).abs().max() < 1e-5


def test_teachers_get_no_gradient():
    student, teacher = (each.clone().requires_grad_() for each in pairs())
    divergence(student, teacher, "alpha").sum().backward()
    assert teacher.grad is None


def test_mean_prediction_is_the_mean_of_probabilities():
    logits = [each * 20 for each in pairs()]
    found = F.softmax(mean_prediction(logits), dim=1).numpy()
    rows = zip(*(each.tolist() for each in logits), strict=True)
    expected = [[(a + b) / 2 for a, b in zip(softmax(one), softmax(two), strict=True)] for one, two in rows]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# Soft labels


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=60)
def test_sparse_targets_spread_what_is_missing(seed, k, more, rounded):
    rng, classes = np.random.default_rng(seed), k + more - 1
    full = rng.dirichlet(np.ones(classes), size=5)
    top = np.argsort(-full, axis=1)[:, :k]
    values = np.take_along_axis(full, top, 1)
    stored = torch.from_numpy(values).half() if rounded else torch.from_numpy(values)
    found = sparse_targets(stored, torch.from_numpy(top), classes)
    assert found.shape == (5, classes)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    for row in range(5):
        left = 1 - sum(values[row])
        for c in range(classes):
            there = c in top[row]
            expected = values[row][list(top[row]).index(c)] if there else left / (classes - k)
            assert float(found[row, c]) == pytest.approx(expected, abs=3e-3 if rounded else 1e-6)


def test_probabilities_that_were_rounded_up_still_add_up_to_one():
    values = torch.tensor([[0.6, 0.5], [0.3, 0.2]])
    found = sparse_targets(values, torch.tensor([[0, 2], [1, 0]]), 4)
    expected = [[0.6 / 1.1, 0, 0.5 / 1.1, 0], [0.2, 0.3, 0.25, 0.25]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("k", "classes", "width"), [(11, 10, 11), (3, 10, 2), (0, 10, 0)])
def test_soft_labels_of_another_shape_are_refused(k, classes, width):
    with pytest.raises(InputError) as caught:
        sparse_targets(torch.rand(4, k), torch.zeros(4, width, dtype=torch.long), classes)
    one_line(caught, f"(4, {k})", "10 classes")


def test_sparse_targets_train(tiny):
    values, indices = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)).div(3), torch.arange(36).view(12, 3)
    targets = sparse_targets(values, indices % 10, 10)
    archs = some(tiny, 2)
    losses = Objective().gradients(tiny, archs, IMAGES, targets)
    logs = [F.log_softmax(extract(tiny, arch)(IMAGES), 1) for arch in archs]
    torch.testing.assert_close(losses, torch.stack([-(targets * each).sum(1).mean() for each in logs]).detach())


# Settings


def settings_of_distil():
    numbers = st.floats(0.01, 100), st.floats(0, 1, exclude_min=True, exclude_max=True)
    taught = st.sampled_from(["largest", "average", "others", "cascade"])
    return st.just(Distil()) | st.builds(Distil, taught, st.sampled_from(["kl", "alpha"]), *numbers)


@given(settings_of_distil())
def test_settings_read_back_as_the_same(distil):
    assert Distil.parse(str(distil)) == distil


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Distil()),
        ("largest", Distil("largest", "kl", 1.0, 1.0)),
        ("largest:divergence=alpha,temperature=1,weight=1", Distil("largest", "alpha")),
        (" cascade : weight = 0.5 , temperature = 4", Distil("cascade", "kl", 4.0, 0.5)),
        ("average:weight=0.5", Distil("average", weight=0.5)),
    ],
)
def test_settings_are_read(text, expected):
    assert Distil.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ["teacher is ''", "none, largest, average, others, cascade"]),
        ("larges", ["'larges'", "expected one of"]),
        ("largest:", ["not an option", "TEACHER[:OPTION=VALUE,...]"]),
        ("largest:alpha", ["'alpha' is not an option", "largest:divergence=alpha"]),
        ("largest:teacher=others", ["'teacher=others'"]),
        ("largest:weight=0.5,weight=0.6", ["'weight=0.6'", "there twice"]),
        ("largest:divergence=js", ["divergence is 'js'", "kl or alpha"]),
        ("largest:temperature=warm", ["temperature is 'warm'", "a number"]),
        ("largest:temperature=0", ["temperature is 0", "0.01 to 100"]),
        ("largest:temperature=nan", ["temperature is nan"]),
        ("largest:weight=0", ["weight is 0", "'none'"]),
        ("largest:weight=1.5", ["weight is 1.5", "at most 1"]),
        ("average", ["nobody would learn from the labels", "average:weight=0.5"]),
        ("none:weight=0.5", ["no option has an effect"]),
        ("largest\nx", ["expected one of"]),
    ],
)
def test_settings_that_cannot_be_meant(text, fragments):
    with pytest.raises(InputError) as caught:
        Distil.parse(text)
    one_line(caught, *fragments)


# Who learns from whom


def test_lessons(tiny):
    largest = tiny.space.largest
    big, middle, small = by_macs([*some(tiny, 2), tiny.space.smallest])
    step = [small, largest, middle, big]
    assert lessons("none", step, largest) == [(0, ()), (1, ()), (2, ()), (3, ())]
    assert lessons("average", step, largest) == lessons("none", step, largest)
    assert lessons("none", step, largest, by_cost=True) == [(1, ()), (3, ()), (2, ()), (0, ())]
    assert lessons("largest", step, largest) == [(1, ()), (3, (1,)), (2, (1,)), (0, (1,))]
    assert lessons("cascade", step, largest) == [(1, ()), (3, (1,)), (2, (3,)), (0, (2,))]
    assert lessons("others", step, largest) == [(1, ()), (3, ()), (2, ()), (0, (1, 3, 2))]


def test_copies_do_not_teach_each_other(tiny):
    largest, (big, small) = tiny.space.largest, by_macs(some(tiny, 2))
    assert lessons("largest", [largest, small, largest], largest) == [(0, ()), (2, ()), (1, (0,))]
    assert lessons("cascade", [small, big, small], largest) == [(1, ()), (0, (1,)), (2, (1,))]
    assert lessons("others", [small, big, small], largest) == [(1, ()), (0, (1,)), (2, (1,))]


def test_steps_without_a_teacher_are_refused(tiny):
    largest, archs = tiny.space.largest, some(tiny, 2)
    with pytest.raises(InputError) as caught:
        Objective(distil=Distil("largest")).gradients(tiny, archs, IMAGES, LABELS)
    one_line(caught, "without the largest", "sandwich", "average")
    for teacher in ("others", "cascade"):
        with pytest.raises(InputError) as caught:
            lessons(teacher, archs[:1], largest)
        one_line(caught, repr(teacher), "one subnet", "two or more")
    with pytest.raises(InputError) as caught:
        Objective(distil=Distil("average", weight=0.5))
    one_line(caught, "averaged")
    assert all(p.grad is None for p in tiny.parameters())


# The losses of a step


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("targets", [LABELS, SHARES], ids=["labels", "shares"])
def test_without_a_teacher_it_is_the_plain_step_bit_for_bit(mixed, targets, bf16):
    archs = (*some(mixed, 3), mixed.space.largest)
    twin = copy.deepcopy(mixed)
    expected = plain_gradients(twin, archs, IMAGES, targets, smoothing=0.1, bf16=bf16)
    net = copy.deepcopy(mixed)
    losses = Objective(smoothing=0.1, bf16=bf16).gradients(net, archs, IMAGES, targets)
    assert torch.equal(losses, expected)
    assert equal(grads(net), grads(twin))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))


def averaged_by(net):
    """A network of its own with other weights, as a moving average has."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.9)
    return twin.eval()


def expected_losses(teacher, archs, largest, say, averaged, loss):
    """The losses of distinct architectures, everything run at once. say: arch -> logits; loss: logits and what the
    teacher predicts, probabilities or None, to ()."""
    logits = {arch: say(arch) for arch in archs}
    ordered = by_macs(archs)
    found = {}
    for place, arch in enumerate(ordered):
        taught = None
        if teacher == "largest" and arch != largest:
            taught = logits[largest].softmax(1)
        elif teacher == "average":
            taught = averaged.softmax(1)
        elif teacher == "cascade" and place:
            taught = logits[ordered[place - 1]].softmax(1)
        elif teacher == "others" and place == len(ordered) - 1:
            taught = torch.stack([logits[each].softmax(1) for each in ordered[:-1]]).mean(0)
        found[arch] = loss(logits[arch], None if taught is None else taught.detach())
    return [found[arch] for arch in archs]


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("teacher", ["largest", "average", "others", "cascade"])
def test_losses_and_gradients_of_each_teacher(mixed, teacher, weight):
    if teacher == "average" and weight == 1:
        weight = 0.9
    space, twin, average = mixed.space, copy.deepcopy(mixed), averaged_by(mixed)
    archs = (*some(mixed, 2), space.largest, space.smallest)
    assert {arch.resolution for arch in archs} == {6, 8}

    def say(net, arch):
        return net(resize(IMAGES, arch.resolution), arch)

    def loss(logits, taught):
        hard = F.cross_entropy(logits, LABELS, label_smoothing=0.1)
        if taught is None:
            return hard
        cooled = (taught.log() / 3).softmax(1)  # a softmax of logits to another temperature
        soft = 9 * F.kl_div((logits / 3).log_softmax(1), cooled, reduction="batchmean")
        return weight * soft + (1 - weight) * hard

    with torch.no_grad():
        taught = say(average, space.largest)
    expected = expected_losses(teacher, archs, space.largest, lambda arch: say(twin, arch), taught, loss)
    torch.stack(expected).mean().backward()
    net = copy.deepcopy(mixed)
    objective = Objective(
        smoothing=0.1, distil=Distil(teacher, temperature=3.0, weight=weight), averaged=lambda x, arch: average(x, arch)
    )
    losses = objective.gradients(net, archs, IMAGES, LABELS)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, torch.stack(expected).detach())
    assert_close(grads(net), grads(twin))


@pytest.mark.parametrize("teacher", ["largest", "others", "cascade"])
def test_losses_are_those_of_plain_networks(tiny, teacher):
    """Extracted networks, and divergences in Python's own arithmetic."""
    archs = (tiny.space.smallest, *some(tiny, 2), tiny.space.largest)

    def say(arch):
        with torch.no_grad():
            return extract(tiny, arch)(IMAGES)

    def loss(logits, taught):
        if taught is None:
            logs = [math.log(softmax(row)[label]) for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True)]
            return -np.mean(logs)
        return np.mean([slow_alpha(*r, 1.0) for r in zip(logits.tolist(), taught.log().tolist(), strict=True)])

    losses = Objective(distil=Distil(teacher, "alpha")).gradients(tiny, archs, IMAGES, LABELS)
    expected = expected_losses(teacher, archs, tiny.space.largest, say, None, loss)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("teacher", ["none", "largest", "average", "others", "cascade"])
def test_copies_of_one_subnet_are_that_subnet(mixed, teacher, project):
    arch, average = mixed.space.largest, averaged_by(mixed)
    distil = Distil(teacher, weight=0.5) if teacher != "none" else Distil()
    objective = Objective(distil=distil, averaged=average, project=project)
    alone = objective if teacher == "average" else Objective()  # the others have nobody to learn from
    alone.gradients(mixed, [arch], IMAGES, LABELS)
    expected = grads(mixed)
    mixed.zero_grad()
    losses = objective.gradients(mixed, [arch] * 3, IMAGES, LABELS)
    assert len(set(losses.tolist())) == 1
    assert_close(grads(mixed), expected)


@pytest.mark.parametrize("project", [False, True])
def test_gradients_are_added_to_what_is_there(mixed, project):
    objective = Objective(distil=Distil("cascade"), project=project)
    first, second = some(mixed, 4)[:2], some(mixed, 4)[2:]
    found = []
    for archs in (first, second):
        objective.gradients(mixed, archs, IMAGES, LABELS)
        found.append(grads(mixed))
        mixed.zero_grad()
    for archs in (first, second):
        objective.gradients(mixed, archs, IMAGES, LABELS)
    both = [b if a is None else a if b is None else a + b for a, b in zip(*found, strict=True)]
    assert_close(grads(mixed), both)


def test_subnets_run_one_at_a_time(tiny):
    """A teacher's logits stay, its activations do not: each backward pass comes before the next forward pass."""
    events = []

    def before(net, args):
        events.append("run")

    def after(net, args, logits):
        logits.register_hook(lambda gradient: events.append("back"))

    hooks = [tiny.register_forward_pre_hook(before), tiny.register_forward_hook(after)]
    archs = (*some(tiny, 3), tiny.space.largest)
    for teacher in ("none", "largest", "others", "cascade"):
        Objective(distil=Distil(teacher)).gradients(tiny, archs, IMAGES, LABELS)
    for hook in hooks:
        hook.remove()
    assert events == ["run", "back"] * 16


class NoWaiting(TorchDispatchMode):
    """Refuses the operators that fetch a value from where the tensor is (`item`, `bool`, `nonzero`)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **kwargs or {})


def test_nothing_waits_for_an_accelerator(mixed):
    archs = (*some(mixed, 2), mixed.space.largest)
    with NoWaiting():
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            LABELS.max().item()
        for teacher in ("none", "largest", "others", "cascade", "average"):
            distil = Distil(teacher, "alpha", weight=0.5) if teacher != "none" else Distil()
            objective = Objective(smoothing=0.1, distil=distil, averaged=averaged_by(mixed), project=True)
            objective.gradients(mixed, archs, IMAGES, LABELS)
        clip_adaptive_(mixed.parameters())
        conflict(mixed, archs[:1], archs[1:], IMAGES, LABELS)
        sparse_targets(torch.rand(12, 3), torch.arange(36).view(12, 3) % 10, 10)


# Rules for gradients


def plain_grads(net, archs, share):
    """Gradients of the mean loss over `share` subnets, summed over `archs`, in double precision, from plain networks:
    in the spaces of plain ViTs all that is inherited is a prefix of what is stored. None where no subnet has it."""
    found = [None] * len(list(net.parameters()))
    places = {name: i for i, (name, _) in enumerate(net.network.named_parameters())}
    stored = list(net.parameters())
    for arch in archs:
        network = extract(net, arch).double()
        (F.cross_entropy(network(IMAGES.double()), LABELS) / share).backward()
        for name, p in network.named_parameters():
            i = places[name]
            if found[i] is None:
                found[i] = np.zeros(stored[i].shape)
            found[i][tuple(slice(n) for n in p.shape)] += p.grad.numpy()
    return found


def test_projection_is_nasvits(tiny):
    archs = [arch for arch in some(tiny, 12) if len(arch.stages[0].blocks) < 3][:4]
    largest = by_macs(archs)[0]
    one = plain_grads(tiny, [largest], 4)
    rest = plain_grads(tiny, [arch for arch in archs if arch != largest], 4)
    losses = Objective(project=True).gradients(tiny, archs, IMAGES, LABELS)
    unprojected = plain_gradients(copy.deepcopy(tiny), tuple(archs), IMAGES, LABELS, smoothing=0.0, bf16=False)
    torch.testing.assert_close(losses, unprojected)
    strengths, unused = [], 0
    for p, s, u in zip(tiny.parameters(), one, rest, strict=True):
        if s is None and u is None:
            assert p.grad is None
            unused += 1
            continue
        s, u = (np.zeros(p.shape) if g is None else g for g in (s, u))
        strengths.append(float(np.clip(-(u * s).sum() / ((u * u).sum() + 1e-6), 0, 2)))
        np.testing.assert_allclose(p.grad.numpy(), u * (1 + strengths[-1]) + s, rtol=1e-3, atol=1e-6)
    assert unused  # the third block
    assert sum(c > 0.05 for c in strengths) > 5
    assert min(strengths) == 0


@given(st.integers(0, 10**6), st.floats(0.01, 20))
@settings(max_examples=40)
def test_projection_of_any_tensors(seed, scale):
    rng = np.random.default_rng(seed)
    before, u, s = rng.normal(size=(3, 2, 3))
    p = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    p.grad = torch.from_numpy(before.copy())
    projection = Projection([p])
    assert p.grad is None
    p.grad = torch.from_numpy(s * scale)
    projection.largest_done()
    p.grad = torch.from_numpy(u.copy())
    projection.finish()
    c = -(u * s).sum() * scale / ((u**2).sum() + 1e-6)
    np.testing.assert_allclose(p.grad.numpy(), before + u * (1 + min(max(c, 0), 2)) + s * scale, rtol=1e-9)
    if 0 < c < 2:
        settled = p.grad.numpy() - before
        assert (settled * u).sum() == pytest.approx((u**2).sum(), rel=1e-4)  # what the others ask for, undiminished


def test_adaptive_clipping_is_by_units(mixed):
    Objective().gradients(mixed, some(mixed, 3), IMAGES, LABELS)
    unclipped = grads(mixed)
    units = clipped = 0
    norm = clip_adaptive_(mixed.parameters(), clipping=0.02)
    for p, g in zip(mixed.parameters(), unclipped, strict=True):
        if g is None:
            assert p.grad is None
            continue
        weights, before, after = (t.detach().numpy().astype(np.float64) for t in (p, g, p.grad))
        if weights.ndim < 2:
            weights, before, after = weights[None], before[None], after[None]
        for w, b, a in zip(weights, before, after, strict=True):
            limit, length = 0.02 * max(np.sqrt((w**2).sum()), 1e-3), np.sqrt((b**2).sum())
            np.testing.assert_allclose(a, b * (limit / length if length > limit else 1), rtol=1e-5, atol=1e-9)
            units, clipped = units + 1, clipped + (length > limit)
    assert 0.05 < clipped / units < 0.95
    total = math.sqrt(sum(float(g.double().square().sum()) for g in unclipped if g is not None))
    assert float(norm) == pytest.approx(total, rel=1e-5)
    assert norm.shape == ()


def test_adaptive_clipping_at_the_edges():
    zero, still, absent = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    zero.grad, still.grad = torch.ones(2, 3), torch.zeros(2, 3)
    assert float(clip_adaptive_([zero, still, absent])) == pytest.approx(math.sqrt(6))
    assert zero.grad.norm(dim=1).tolist() == pytest.approx([1e-4, 1e-4])  # weights of zero count as 1e-3 long
    assert torch.equal(still.grad, torch.zeros(2, 3))
    assert absent.grad is None
    zero.grad[0, 0] = torch.inf
    assert not torch.isfinite(clip_adaptive_([zero]))


def test_conflict_is_the_cosine_of_plain_networks_gradients(tiny):
    archs = some(tiny, 4)
    one, other = plain_grads(tiny, archs[:1], 1), plain_grads(tiny, archs[1:], 3)
    shared = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    dot, first, second = (
        sum((x * y).sum() for x, y in ((pair[i], pair[j]) for pair in shared)) for i, j in ((0, 1), (0, 0), (1, 1))
    )
    found = conflict(tiny, archs[:1], archs[1:], IMAGES, LABELS)
    assert float(found) == pytest.approx(dot / math.sqrt(first * second), abs=1e-4)
    assert abs(float(found)) < 0.999
    assert float(conflict(tiny, archs[:2], archs[:2], IMAGES, LABELS)) == pytest.approx(1, abs=1e-5)
    assert float(cosine([torch.zeros(3), None], [torch.ones(3), torch.ones(3)])) == 0


@pytest.mark.parametrize("gradients_there", [False, True])
def test_conflict_leaves_everything_as_found(mixed, gradients_there):
    net, archs = copy.deepcopy(mixed), some(mixed, 4)
    if gradients_there:
        Objective().gradients(net, archs[:1], IMAGES, LABELS)
    tensors = [p.grad for p in net.parameters()]
    values, state = grads(net), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    conflict(net, archs[:2], archs[2:], IMAGES, LABELS)
    assert all(p.grad is tensor for p, tensor in zip(net.parameters(), tensors, strict=True))
    assert equal(grads(net), values)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    twin = copy.deepcopy(net)
    for p, value in zip(twin.parameters(), values, strict=True):
        p.grad = value
    for each in (net, twin):  # and what comes next adds up as it should
        Objective().gradients(each, archs[1:3], IMAGES, LABELS)
    assert equal(grads(net), grads(twin))
