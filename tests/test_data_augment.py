"""Augmentation and batch order: keyed, vectorised, equal to the plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data import Augmentation, BatchOrder, augmentation_for, keyed_uniform, load_data, mixup


def images(n, size=6, channels=2, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8))


@given(st.integers(0, 2**31 - 1), st.integers(1, 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_augmented_images_are_shifted_and_mirrored_ones(seed, pad, flip):
    batch = images(8)
    out = Augmentation(pad, flip)(batch, seed, np.zeros(8, int), np.arange(8))
    padded = torch.nn.functional.pad(batch, (pad,) * 4)
    for before, after in zip(padded, out, strict=True):
        crops = [before[:, y : y + 6, x : x + 6] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        crops += [crop.flip(2) for crop in crops] if flip else []
        assert any(torch.equal(crop, after) for crop in crops)


def test_an_image_is_augmented_the_same_in_any_batch():
    augment, batch, rows = Augmentation(2, True), images(16), np.arange(16)
    epochs = np.full(16, 3)
    whole = augment(batch, 5, epochs, rows)
    order = np.random.default_rng(0).permutation(16)
    assert torch.equal(augment(batch[order], 5, epochs[order], rows[order]), whole[order])
    assert torch.equal(torch.cat([augment(batch[i : i + 1], 5, epochs[:1], rows[i : i + 1]) for i in rows]), whole)


@pytest.mark.parametrize("changed", ["seed", "epoch", "sample"])
def test_every_part_of_the_key_counts(changed):
    rows, zero = np.arange(1000), np.zeros(1000, int)
    base = keyed_uniform(0, zero, rows, 2)
    other = {
        "seed": lambda: keyed_uniform(1, zero, rows, 2),
        "epoch": lambda: keyed_uniform(0, zero + 1, rows, 2),
        "sample": lambda: keyed_uniform(0, zero, rows + 1000, 2),
    }[changed]()
    assert abs(np.corrcoef(base[:, 0], other[:, 0])[0, 1]) < 0.1
    assert not np.intersect1d(base, other).size


def test_keyed_draws_are_uniform():
    draws = keyed_uniform(7, np.repeat(np.arange(10), 1000), np.tile(np.arange(1000), 10), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.stack([np.histogram(draws[:, i], 20, (0, 1))[0] for i in range(3)])
    chi_squared = ((counts - 500) ** 2 / 500).sum(1)
    assert (chi_squared < 43.8).all()  # 99.9 % of the distribution with 19 degrees of freedom
    assert abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.05


def test_digits_are_not_mirrored():
    data = load_data("digits", resolution=8, in_channels=1)
    assert augmentation_for(data) == Augmentation(pad=1, flip=False, share=0.3)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_each_epoch_sees_every_image_once(size, batch_size, seed):
    order = BatchOrder(size, batch_size, seed)
    batches = [order.batch(step) for step in range(3 * size // batch_size + 2)]
    rows, epochs = (np.concatenate(part) for part in zip(*batches, strict=True))
    for epoch in range(3):
        assert sorted(rows[epochs == epoch]) == list(range(size))


def test_a_batch_depends_on_its_step_alone():
    forward, fresh = BatchOrder(50, 16, 3), BatchOrder(50, 16, 3)
    seen = [forward.batch(step) for step in range(10)]
    for step in (9, 2, 5):
        for a, b in zip(seen[step], fresh.batch(step), strict=True):
            assert np.array_equal(a, b)


def test_mixup_blends_images_and_targets_alike():
    values = torch.arange(8.0)
    mixed, targets = mixup(values.view(8, 1, 1, 1), torch.eye(8), 0.8, np.random.default_rng(0))
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert torch.allclose(targets @ values, mixed.flatten(), atol=1e-5)
    assert ((targets > 0).sum(1) > 1).any()


def test_only_a_share_of_the_images_is_shifted():
    batch = images(400)
    out = Augmentation(1, False, share=0.25)(batch, 0, np.zeros(400, int), np.arange(400))
    moved = np.mean([not torch.equal(a, b) for a, b in zip(batch, out, strict=True)])
    assert moved == pytest.approx(0.25 * 8 / 9, abs=0.07)  # one shift in nine is none
