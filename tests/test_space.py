"""Search spaces: exact counting, sampling, the bijection of rows and architectures, errors that name the field."""

import itertools
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

import nas
from nas import catalogue
from nas.cost import FEATURES
from nas.errors import SpaceError
from nas.space import load_space, space_from_toml
from nas.space.schema import parse_spec

SHIPPED = sorted(catalogue.spaces())


def tiny_file(**changes: object) -> dict[str, object]:
    data = {
        "name": "tiny",
        "input": {"resolution": [8], "in_channels": 1, "num_classes": 10},
        "stem": {"kind": "patch", "patch": 2},
        "stages": [
            {
                "kind": "transformer",
                "width": [16, 32],
                "depth": [1, 3],
                "head_dim": 8,
                "heads": [1, 2],
                "mlp_ratio": [1, 2],
            }
        ],
        "head": {"kind": "pool", "pool": "mean"},
    }
    return data | changes


def tiny(**stage: object) -> nas.SearchSpace:
    data = tiny_file()
    data["stages"][0].update(stage)
    return nas.SearchSpace(parse_spec(data))


def enumerated(space: nas.SearchSpace) -> np.ndarray:
    """Every canonical row, found without the code under test: all rows of the product, those that pass the check."""
    columns = [range(g.first_value, len(g.choices)) for g in space.genes]
    rows = np.array(list(itertools.product(*columns)), np.int16)
    return np.array([row for row in rows if _is_canonical(space, row)])


def _is_canonical(space: nas.SearchSpace, row: np.ndarray) -> bool:
    try:
        space.check(row[None])
    except SpaceError:
        return False
    return True


@pytest.mark.parametrize("share", [[], ["heads"], ["heads", "mlp_ratio"]])
def test_size_is_the_number_of_rows_one_can_enumerate(share):
    space = tiny(share=share)
    rows = enumerated(space)
    assert space.size == len(rows)
    assert len({arch.id for arch in space.decode(rows)}) == space.size


def test_size_of_digits_by_closed_form():
    # widths x sum over depths of (heads x ratios)^depth
    assert nas.load_space("digits").size == 5 * sum((3 * 4) ** depth for depth in range(1, 9))


def test_samples_are_uniform_over_architectures():
    space = tiny()
    rows = Counter(map(tuple, space.sample(40 * space.size, np.random.default_rng(1)).tolist()))
    assert len(rows) == space.size
    chi2 = sum((count - 40) ** 2 / 40 for count in rows.values())
    assert chi2 < space.size + 5 * (2 * space.size) ** 0.5  # five standard deviations of the chi-square


def test_samples_over_genes_see_each_depth_equally_often(rng):
    space = nas.load_space("digits")
    depths = np.array([len(arch.stages[0].blocks) for arch in space.decode(space.sample(4000, rng, over="genes"))])
    assert np.all(np.abs(np.bincount(depths)[1:] - 500) < 5 * 500**0.5)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in ("flexivit", "matvit")])  # few at the ends
@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9])
def test_sample_at_stays_in_its_range_and_finds_distinct_architectures(name, where, rng):
    space = nas.load_space(name)
    least, greatest = nas.cost(space.smallest).macs, nas.cost(space.largest).macs
    low = least + where * (greatest - least)
    high = low + 0.05 * (greatest - least)
    X = space.sample_at(low, high, 1000, rng)
    space.check(X)
    macs = space.cost(X).macs
    assert macs.min() >= low
    assert macs.max() <= high
    assert len(np.unique(X, axis=0)) == 1000


def test_sample_at_over_genes_is_what_is_left_of_gene_uniform_rows(rng):
    """Against rejection: rows with uniform genes, those outside the range thrown away."""
    space = nas.load_space("digits")
    low, high = 0.3e6, 0.6e6
    X = space.sample(40_000, rng, over="genes")
    macs = space.cost(X).macs
    left = X[(macs >= low) & (macs <= high)]
    drawn = space.sample_at(low, high, len(left), rng, over="genes", distinct=False)
    for column in range(2):  # width, depth
        shares = [np.bincount(rows[:, column], minlength=8) / len(rows) for rows in (left, drawn)]
        assert np.abs(shares[0] - shares[1]).max() < 5 * (0.5 / len(left)) ** 0.5


def test_sample_at_reaches_every_architecture_of_a_range(rng):
    space = tiny()
    macs = space.cost(enumerated(space)).macs
    low, high = np.quantile(macs, [0.4, 0.6])
    expected = ((macs >= low) & (macs <= high)).sum()
    assert len(np.unique(space.sample_at(low, high, 5000, rng), axis=0)) == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_sample_at_finds_the_ends_of_the_space(name, rng):
    space = nas.load_space(name)
    for end in (space.smallest, space.largest):
        macs = nas.cost(end).macs
        assert space.decode(space.sample_at(macs, macs, 1, rng)) == [end]


def test_sample_at_finds_a_thousand_small_elasticvits(rng):
    space = nas.load_space("elasticvit")
    for low, high in ((40e6, 50e6), (100e6, 120e6)):
        X = space.sample_at(low, high, 1000, rng)
        assert len(np.unique(X, axis=0)) == 1000
        macs = [nas.cost(arch).macs for arch in space.decode(X[:50])]
        assert low <= min(macs) <= max(macs) <= high


@pytest.mark.parametrize("curved", [False, True], ids=["sum over parts", "anything"])
def test_sample_at_takes_any_figure(curved, rng):
    """A latency that is a weighted sum of features, and one that is not: it saturates, and fusing makes it dip."""
    space = nas.load_space("elasticvit_cifar")
    weights = np.full(len(FEATURES), 1e-6)

    def latency(X):
        plain = space.features(X) @ weights + 1.0
        return plain**0.8 * (1 - 0.03 * np.sin(plain)) if curved else plain

    reference = np.sort(latency(space.sample(5000, rng, over="genes")))
    for low, high in ((reference[5], reference[60]), (reference[2500], reference[2700])):
        X = space.sample_at(low, high, 300, rng, over="genes", measure=latency)
        assert len(np.unique(X, axis=0)) == 300
        assert ((latency(X) >= low) & (latency(X) <= high)).all()
    with pytest.raises(SpaceError, match="a figure of"):
        space.sample_at(2 * reference[-1], 3 * reference[-1], 1, rng, measure=latency)


def test_sample_at_takes_a_shipped_predictor_at_every_latency(rng):
    """Its best linear stand-in has weights below 0, and some parts then cost less than nothing."""
    from nas import catalogue
    from nas.predict import LatencyPredictor

    space = load_space("vit_cifar")
    predictor = LatencyPredictor.load(catalogue.predictor("epyc-zen5_onnxruntime_fp32_vit_cifar"), space)
    for high in (0.82, 2.2, 5.0):
        found = predictor.mean(space.sample_at(0.98 * high, high, 20, rng, over="genes", measure=predictor.mean))
        assert ((found >= 0.98 * high) & (found <= high)).all()
        assert len(found) == 20


def test_sample_at_takes_a_fitted_latency_predictor(rng):
    space = nas.load_space("vit_cifar")
    X = space.sample(60, rng, over="genes")
    ms = 0.5 + space.cost(X).macs / 4e7 * rng.lognormal(0, 0.03, len(X))
    predictor = nas.fit_latency(X, ms, space=space)
    drawn = space.sample_at(2.0, 2.5, 200, rng, over="genes", measure=predictor)
    predicted = predictor.predict(drawn).mean
    assert ((predicted >= 2.0) & (predicted <= 2.5)).all()
    assert len(np.unique(drawn, axis=0)) == 200


def test_sample_at_an_empty_range_says_what_is_reachable(rng):
    with pytest.raises(SpaceError, match=r"it reaches from 0.02986 to 6.558"):
        nas.load_space("digits").sample_at(7e6, 8e6, 1, rng)


def test_check_names_the_row_and_the_gene(rng):
    space = tiny()
    X = space.sample(3, rng)
    X[1, 0] = 2
    with pytest.raises(SpaceError, match=r"row 1: gene stages.0.width is 2, expected 0 to 1"):
        space.check(X)
    shallow = space.encode([space.smallest])
    shallow[0, -1] = 0
    with pytest.raises(SpaceError, match="row 0 is not canonical"):
        space.check(shallow)
    with pytest.raises(SpaceError, match="shape"):
        space.check(X[:, :-1])


def test_an_architecture_of_another_space_is_refused_by_field():
    with pytest.raises(SpaceError, match="resolution is 8"):
        nas.load_space("vit_cifar").encode([nas.load_space("digits").smallest])
    with pytest.raises(SpaceError, match="class count differ"):
        nas.load_space("digits").encode([nas.load_space("digits", num_classes=11).smallest])


def test_digest_follows_the_definition_and_not_the_name():
    assert tiny().digest == nas.SearchSpace(parse_spec(tiny_file(name="other"))).digest
    assert tiny().digest != tiny(heads=[1, 2, 3]).digest


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("input"), "input is missing"),
        (
            lambda d: d["stages"][0].update(widht=d["stages"][0].pop("width")),
            "stages.0..widht looks like a misspelling",
        ),
        (lambda d: d["stages"][0].update(windows=[7]), r"stages\[0\].windows is not a field"),
        (
            lambda d: d["stages"][0].update(heads=[]),
            r"stages\[0\].heads is \[\], expected a list of at least one choice",
        ),
        (lambda d: d["stages"][0].update(heads=[2, 1]), "ascending"),
        (lambda d: d["stages"][0].update(heads=[1.5]), "whole numbers"),
        (lambda d: d["stages"][0].update(depth=["a"]), "positive numbers"),
        (lambda d: d["stages"][0].update(mlp_ratio=[1.3]), r"stages\[0\]: width 16 is not divisible"),
        (lambda d: d["stages"][0].update(kind="mamba"), "expected one of transformer, mbconv, mb4d"),
        (
            lambda d: d["stages"][0].update(share=["width"]),
            "expected a list of names out of heads, mlp_ratio, window, keep",
        ),
        (lambda d: d["input"].update(resolution=[9]), "stem: patch size 2 does not divide the resolution 9"),
        (lambda d: d["input"].update(num_classes=1), "at least 2"),
        (lambda d: d["head"].update(pool="max"), "head.pool is 'max'"),
        (lambda d: d["head"].update(pool="class_token"), "class_token of the stem"),
        (lambda d: d.update(stages=[]), "stages is not a non-empty array"),
        (lambda d: d["stages"].append(d["stages"][0]), "down-sampler"),
        (lambda d: d.update(name=3), "name is 3, expected a text"),
    ],
)
def test_a_file_that_is_no_space_is_refused_by_field(edit, message):
    data = tiny_file()
    edit(data)
    with pytest.raises(SpaceError, match=message):
        nas.SearchSpace(parse_spec(data))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_text_of_a_space_reads_back_as_the_space(name):
    space = nas.load_space(name, num_classes=7)
    again = space_from_toml(space.to_toml())
    assert again.spec == space.spec
    assert again.digest == space.digest != nas.load_space(name).digest


def test_unknown_and_unreadable_files(tmp_path):
    with pytest.raises(SpaceError, match="did you mean 'vit_cifar'"):
        nas.load_space("vit_cifer")
    with pytest.raises(SpaceError, match="no search space file"):
        nas.load_space(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(SpaceError, match="is not TOML"):
        nas.load_space(tmp_path / "bad.toml")


@lru_cache
def unconstrained() -> tuple[nas.SearchSpace, tuple[nas.Arch, ...]]:
    """The space without constraints, and every architecture of it."""
    space = constrained()
    return space, tuple(space.decode(enumerated(space)))


def constrained(*texts: str) -> nas.SearchSpace:
    stage = {"kind": "transformer", "head_dim": 8, "heads": [1, 3], "mlp_ratio": 1, "share": "all"}
    down = {"kind": "conv_down"}
    stages = [
        {**stage, "width": [8, 16, 24, 32], "depth": [1, 2]},
        {**stage, "width": [16, 24, 40], "depth": [1, 2, 3], "down": down},
        {**stage, "width": [8, 32, 48], "depth": [1, 2], "down": down},
    ]
    return nas.SearchSpace(parse_spec(tiny_file(stages=stages, constraints=list(texts))))


RELATED = {
    "stages.*.width non-decreasing": lambda a: a.stages[0].width <= a.stages[1].width <= a.stages[2].width,
    "stages.0.depth <= stages.1.depth": lambda a: len(a.stages[0].blocks) <= len(a.stages[1].blocks) - 1,
    "stages.0.heads divides stages.0.width": lambda a: a.stages[0].width % a.stages[0].blocks[0].heads == 0,
    "stages.2.width > 8": lambda a: a.stages[2].width > 8,
    "stages.1.heads == stages.2.heads": lambda a: a.stages[1].blocks[1].heads == a.stages[2].blocks[1].heads,
}


@pytest.mark.parametrize("texts", [*([text] for text in RELATED), list(RELATED)], ids=lambda texts: texts[0])
def test_constraints_count_sample_and_vary_exactly(texts, rng):
    free, archs = unconstrained()
    space = constrained(*texts)
    kept = [arch for arch in archs if all(RELATED[text](arch) for text in texts)]
    assert space.size == len(kept) < free.size == len(archs)
    assert np.array_equal(space.decode(space.encode(kept)), kept)
    X = space.sample(4000, rng)
    rows = Counter(map(tuple, X.tolist()))
    expected = len(X) / space.size
    assert sum((n - expected) ** 2 / expected for n in rows.values()) < space.size + 5 * (2 * space.size) ** 0.5
    for rows_ in (space.sample(500, rng, over="genes"), space.mutate(X, rng, 0.5), space.cross(X, X[::-1], rng)):
        assert all(all(RELATED[text](arch) for text in texts) for arch in space.decode(rows_[:500]))
    costs = sorted(nas.cost(arch).macs for arch in kept)
    assert (nas.cost(space.smallest).macs, nas.cost(space.largest).macs) == (costs[0], costs[-1])
    assert space.middle.id in {arch.id for arch in kept}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages.0.width", "expected 'GENES non-decreasing', or two genes"),
        ("stages.9.width <= 3", "'stages.9.width' is no gene"),
        ("stages.0.width ~ 3", "around one of <=, <, ==, >=, >, divides"),
        ("stages.0.width non-decreasing", "matches 1 genes"),
        ("stages.0.width <= stages.0.width", "two different genes"),
        ("stages.0.width > 99", "no architecture keeps all constraints"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(SpaceError, match=message):
        constrained(text)


def test_blocks_that_may_be_skipped_say_where_their_weights_come_from():
    stage = {"kind": "transformer", "width": 16, "depth": [1, 2, 3], "skip": "any", "head_dim": 8, "heads": [1, 2]}
    space = nas.SearchSpace(parse_spec(tiny_file(stages=[{**stage, "mlp_ratio": [1, 2]}])))
    rows = enumerated(space)
    # Block 0 is always there; of blocks 1 and 2 each is absent or has 4 settings.
    assert space.size == len(rows) == 4 * 5 * 5
    sources = Counter(arch.stages[0].sources for arch in space.decode(rows))
    assert sources == {None: 4 + 4 * 4 + 4 * 4 * 4, (0, 2): 16}
    assert np.array_equal(space.encode(space.decode(rows)), rows)


def test_a_space_of_one_architecture():
    stage = {"kind": "transformer", "width": 16, "depth": 2, "head_dim": 8, "heads": 2, "mlp_ratio": 1}
    space = nas.SearchSpace(parse_spec(tiny_file(stages=[stage])))
    X = space.sample(3, np.random.default_rng(0))
    assert (space.size, X.shape) == (1, (3, 0))
    assert set(space.decode(X)) == {space.smallest}
    assert (space.cost(X).macs == nas.cost(space.largest).macs).all()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"window": [3]}, r"stages\[0\]: window 3 does not divide the map of 4x4"),
        ({"keep": [0.45, 0.5]}, r"two choices of .*stages.0.keep make the same .transformer. part"),
        ({"keep": [0.5, 1], "bias": "signed"}, "needs the whole map of tokens, but some were dropped"),
        ({"depth": [0, 1]}, "starts at 0, expected at least 1 in a stage without a down-sampler"),
        ({"mlp": [3]}, "mlp_ratio is missing, expected it or mlp, and not both"),
        ({"down": {"kind": "conv_down", "kernel": 3}}, r"stages\[0\].down.kernel is not a field"),
        ({"skip": "some"}, "expected one of last, any"),
        ({"skip": "any", "depth": [1, 3]}, "expected every number between its ends"),
        ({"bias": "learned"}, "expected one of none, signed, symmetric"),
    ],
)
def test_a_stage_that_cannot_be_built_is_refused_by_field(stage, message):
    with pytest.raises(SpaceError, match=message):
        tiny(**stage)
