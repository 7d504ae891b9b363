"""Streams: batches are a function of (seed, step), whatever the format, ranks and the road there; faults are named."""

import contextlib
import io
import json
import tarfile
import threading
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    FORMATS,
    N,
    broken,
    label_of,
    number_of,
    picture,
    textured,
    write,
    write_folder,
    write_parquet,
    write_tar,
)
from PIL import Image

from nas.data import Stream, StreamOptions, augmentation_for, load_data
from nas.data.crop import BadImageError, Crop
from nas.data.sources import ParquetSource
from nas.data.tars import TarSource
from nas.data.windows import WindowOrder
from nas.errors import DataError

SIDE = 16
QUICK = StreamOptions(window=20, groups=2, workers=2)


def load(spec, options=QUICK, **more):
    return load_data(spec, **{"resolution": SIDE, "in_channels": 3, "stream": options} | more)


def fails(spec, *fragments, options=QUICK, **more):
    with pytest.raises(DataError) as caught:
        load(spec, options, **more)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


def batches(stream, steps, *, batch_size=10, seed=3, **options):
    with stream.reader(batch_size, seed, **options) as reader:
        return [reader.batch(step) for step in steps]


def same(a, b):
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module", params=FORMATS)
def data(request, tmp_path_factory):
    return load(write(request.param, tmp_path_factory.mktemp(request.param)))


# The order


sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda found: sum(found) > 0)


@settings(max_examples=150)
@given(
    sizes=sizes, batch=st.integers(1, 40), window=st.integers(1, 50), groups=st.integers(1, 6), seed=st.integers(0, 9)
)
def test_every_sample_comes_once_an_epoch(sizes, batch, window, groups, seed):
    order = WindowOrder(np.array(sizes), batch, seed, window, groups)
    epochs = 3
    steps = [order.batch(step) for step in range(-(-epochs * sum(sizes) // batch))]
    samples, when = (np.concatenate(column) for column in zip(*steps, strict=True))
    for epoch in range(epochs):
        assert sorted(samples[when == epoch]) == list(range(sum(sizes)))
    assert (np.diff(when) >= 0).all()


@settings(max_examples=100)
@given(sizes=sizes, batch=st.integers(1, 40), window=st.integers(1, 50), steps=st.lists(st.integers(0, 30), max_size=8))
def test_a_step_is_the_same_by_any_road(sizes, batch, window, steps):
    def new():
        return WindowOrder(np.array(sizes), batch, 5, window, 1)

    walked = new()
    for step in steps:
        assert same(walked.batch(step), new().batch(step))
        assert same(walked.groups_near(step), new().groups_near(step))


@settings(max_examples=100)
@given(sizes=sizes, batch=st.integers(1, 40), window=st.integers(1, 50), step=st.integers(0, 30))
def test_the_groups_named_for_a_batch_hold_its_samples(sizes, batch, window, step):
    order = WindowOrder(np.array(sizes), batch, 5, window, 1)
    samples, _ = order.batch(step)
    needed = set(np.searchsorted(np.cumsum(sizes), samples, "right").tolist())
    assert needed <= set(order.groups_near(step)[0].tolist())


def test_windows_hold_as_many_samples_and_groups_as_asked_and_no_more_than_twice():
    order = WindowOrder(np.full(100, 10), 1, 0, 80, 12)
    spans = [{int(group) for group in order.groups_near(step)[0]} for step in range(1000)]
    found = {frozenset(span) for span in spans}
    assert set().union(*found) == set(range(100))
    assert all(12 <= len(span) < 24 for span in found)
    assert sum(map(len, found)) == 100


def test_the_next_window_is_due_by_and_by():
    order = WindowOrder(np.full(40, 10), 10, 0, 100, 1)
    due = [order.groups_near(step)[1].tolist() for step in range(20)]
    assert [len(groups) for groups in due] == [*range(1, 11)] * 2
    assert set(due[9]) == set(order.groups_near(10)[0].tolist())


def test_epochs_and_seeds_differ():
    def epoch(seed, number):
        return WindowOrder(np.full(20, 5), 100, seed, 30, 2).batch(number)[0].tolist()

    assert len({tuple(epoch(seed, number)) for seed in range(3) for number in range(3)}) == 9


# Batches


def test_images_labels_and_numbers_belong_together(data):
    stream = data.train
    assert isinstance(stream, Stream)
    seen = {}
    for batch in batches(stream, range(-(-len(stream) // 10))):
        assert batch.images.shape == (10, 3, SIDE, SIDE)
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        for image, label, sample in zip(batch.images, batch.labels, batch.samples, strict=True):
            number = number_of(image)
            assert label == label_of(number) == stream.labels[sample]
            assert seen.setdefault(int(sample), number) == number
    assert len(set(seen.values())) == len(seen) == len(stream)


def test_going_on_anywhere_gives_what_going_through_gives(data):
    through = batches(data.train, range(20))
    for steps in ([17, 3, 4, 19, 4], [7], range(12, 15)):
        for step, batch in zip(steps, batches(data.train, steps), strict=True):
            assert same(batch, through[step])


def test_neither_threads_nor_batches_ahead_change_a_batch(data):
    stream = data.train
    base = batches(stream, range(8))
    for workers, ahead in ((1, 0), (5, 4)):
        options = StreamOptions(window=20, groups=2, workers=workers, ahead=ahead)
        other = Stream(stream.source, stream.rows, SIDE, 3, options)
        assert all(map(same, batches(other, range(8)), base))


@settings(max_examples=8)
@given(ranks=st.integers(1, 5), batch_size=st.integers(1, 25), seed=st.integers(0, 2**31 - 1))
def test_ranks_share_the_batch_of_one(data, ranks, batch_size, seed):
    steps = [0, 4]
    whole = batches(data.train, steps, batch_size=batch_size, seed=seed)
    parts = [batches(data.train, steps, batch_size=batch_size, seed=seed, share=(r, ranks)) for r in range(ranks)]
    for at, batch in enumerate(whole):
        for rank in range(ranks):
            assert same([column[rank::ranks] for column in batch], parts[rank][at])


def test_two_epochs_crop_and_order_differently(tmp_path):
    stream = load(write("parquet", tmp_path, encode=textured)).train
    first, second = batches(stream, [0, 1], batch_size=len(stream))
    assert sorted(first.samples) == sorted(second.samples) == list(range(len(stream)))
    assert first.samples.tolist() != second.samples.tolist()
    back = np.argsort(first.samples), np.argsort(second.samples)
    differ = (first.images[back[0]] != second.images[back[1]]).flatten(1).any(1)
    assert differ.all()


def test_formats_hold_the_same_search_and_test_as_the_loader_in_memory(tmp_path):
    for kind in ("parquet", "folder"):
        spec = write(kind, tmp_path / kind)
        streamed, whole = load(spec), load_data(spec.replace("stream", kind), resolution=SIDE, in_channels=3)
        assert streamed.test.digest == whole.test.digest
        assert (streamed.num_classes, streamed.class_names) == (whole.num_classes, whole.class_names)
        assert len(streamed.train) + len(streamed.search) == N
    assert load(write("tar", tmp_path / "tar")).test.digest == load(write("parquet", tmp_path / "again")).test.digest


class Rows(list):
    """A list that can be watched."""


@dataclass(frozen=True)
class Counted:
    """A source that notes which groups were read, and which of those read are still held."""

    source: ParquetSource
    groups: list = field(default_factory=list)
    held: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, group, places):
        self.groups.append(group)
        rows = Rows(self.source.read(group, places))
        weakref.finalize(rows, self.held.remove, group)
        self.held.append(group)
        return rows


def test_a_row_group_is_read_once_an_epoch_and_no_more_than_two_windows_are_held(tmp_path):
    write_parquet(tmp_path / "train.parquet", range(300), group=5)
    counted = Counted(ParquetSource.open([tmp_path / "train.parquet"]))
    stream = Stream(counted, np.arange(300), SIDE, 3, StreamOptions(window=50, groups=2, workers=2))
    with stream.reader(10, 3) as reader:
        for step in range(30):
            reader.batch(step)
            assert len(counted.held) <= 2 * 10 + 4  # and at the edge of a window, what is due after it
    assert sorted(set(counted.groups)) == list(range(60))
    assert 60 <= len(counted.groups) <= 60 + 2 * 10  # of the next epoch, what is begun and what is due


def test_closing_stops_the_threads(data):
    before = set(threading.enumerate())
    reader = data.train.reader(10, 0)
    reader.batch(0)
    assert set(threading.enumerate()) > before
    reader.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("share", [(1, 1), (-1, 2), (0, 0)])
def test_a_share_that_is_none(data, share):
    with pytest.raises(DataError, match="expected"):
        data.train.reader(4, 0, share=share)


def test_asking_for_pinned_memory_without_cuda_does_no_harm(data):
    (batch,) = batches(data.train, [0], pin=True)
    assert batch.images.is_pinned() == torch.cuda.is_available()


# Crops


@settings(max_examples=200)
@given(
    width=st.integers(1, 600), height=st.integers(1, 600), key=st.integers(0, 10**6),
    scale=st.sampled_from([(0.08, 1.0), (0.25, 1.0), (1.0, 1.0)]),
)  # fmt: skip
def test_a_crop_lies_within_its_image_and_its_bounds(width, height, key, scale):
    crop = Crop(224, 3, scale, (3 / 4, 4 / 3))
    draws = crop.draws(1, np.array([2]), np.array([key]))[0].tolist()
    left, top, w, h = crop.box(width, height, draws)
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w >= 1
    assert h >= 1
    if min(w, h) > 50:
        assert 0.95 * 3 / 4 <= w / h <= 1.05 * 4 / 3


def test_crops_have_the_area_and_ratio_of_the_recipe():
    crop = Crop(224, 3, (0.08, 1.0), (3 / 4, 4 / 3))
    draws = crop.draws(0, np.zeros(4000, dtype=int), np.arange(4000))
    boxes = np.array([crop.box(2000, 2000, row) for row in draws.tolist()])
    area, ratio = boxes[:, 2] * boxes[:, 3] / 4e6, boxes[:, 2] / boxes[:, 3]
    # what is drawn uniformly and kept where both sides fit, computed from other draws
    rng = np.random.default_rng(0)
    drawn, turned = rng.uniform(0.08, 1, 10**6), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 10**6))
    kept = (drawn * turned <= 1) & (drawn / turned <= 1)
    assert area.mean() == pytest.approx(drawn[kept].mean(), abs=0.015)
    assert np.log(ratio).std() == pytest.approx(np.log(turned[kept]).std(), rel=0.05)
    assert area.min() < 0.1
    assert abs((boxes[:, 0] + boxes[:, 2] / 2).mean() - 1000) < 15


def test_a_crop_is_what_cutting_and_resizing_gives(rng):
    pixels = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    crop = Crop(24, 3, (0.08, 1.0), (3 / 4, 4 / 3))
    for draws in crop.draws(0, np.zeros(5, dtype=int), np.arange(5)).tolist():
        left, top, w, h = crop.box(70, 50, draws)
        cut = Image.fromarray(pixels[top : top + h, left : left + w]).resize((24, 24), Image.Resampling.BICUBIC)
        # a filter at the edge of a box sees beyond it, at the edge of a cut it cannot
        inner = crop(stream.getvalue(), draws).transpose(1, 2, 0)[4:-4, 4:-4].astype(int)
        assert np.abs(inner - np.asarray(cut)[4:-4, 4:-4]).max() <= 1


def test_decoding_small_is_close_to_decoding_whole(rng):
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    stream = io.BytesIO()
    smooth.save(stream, "JPEG", quality=95)
    crop = Crop(32, 3, (0.5, 1.0), (3 / 4, 4 / 3))
    for draws in crop.draws(0, np.zeros(5, dtype=int), np.arange(5)).tolist():
        left, top, w, h = crop.box(640, 480, draws)
        whole = smooth.resize((32, 32), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
        got = crop(stream.getvalue(), draws).transpose(1, 2, 0).astype(int)
        assert np.abs(got - np.asarray(whole)).mean() < 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_of_image(mode, channels):
    stream = io.BytesIO()
    Image.new(mode, (20, 30)).save(stream, "JPEG" if mode == "CMYK" else "PNG")
    crop = Crop(8, channels, (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop(stream.getvalue(), crop.draws(0, np.array([0]), np.array([0]))[0].tolist()).shape == (channels, 8, 8)


def test_a_whole_crop_is_the_middle_square_that_evaluation_sees(tmp_path):
    spec = write("parquet", tmp_path)
    stream = load(spec, StreamOptions(scale=(1, 1), ratio=(1, 1))).train
    (batch,) = batches(stream, [0])
    assert torch.equal(batch.images, stream.take(batch.samples).images)


def test_what_was_cropped_is_only_mirrored_after(data):
    augment = augmentation_for(data)
    images = torch.arange(2 * 3 * SIDE * SIDE, dtype=torch.uint8).view(2, 3, SIDE, SIDE).expand(20, 2, 3, SIDE, SIDE)
    images = images.reshape(40, 3, SIDE, SIDE)
    found = augment(images, 0, np.zeros(40, dtype=int), np.arange(40))
    kept = (found == images).flatten(1).all(1)
    turned = (found == images.flip(3)).flatten(1).all(1)
    assert (kept ^ turned).all()
    assert 8 < kept.sum() < 32


# Splits, notes and hashes


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_carved_is_apart_by_sample_and_stratified(tmp_path, kind):
    if kind == "folder":
        write_folder(tmp_path / "train", range(300))
    else:
        (write_parquet if kind == "parquet" else write_tar)(tmp_path / f"train.{kind}", range(300))
    data, again = load(f"stream:{tmp_path}"), load(f"stream:{tmp_path}")
    assert data.hashes == again.hashes
    parts = [
        {number_of(image) for image in split.images}
        for split in (data.train.take(np.arange(180)), data.search, data.test)
    ]
    assert sorted(number for part in parts for number in part) == list(range(300))
    for split in (data.search, data.test):
        assert np.bincount(split.labels).tolist() == [20, 20, 20]
    assert sum("carved from train by hashes" in note for note in data.notes) == 2
    assert any("is not checked" in note for note in data.notes)


def test_a_class_that_grows_moves_no_image_of_another(tmp_path):
    write_folder(tmp_path / "train", range(300))
    before = {number_of(image) for image in load(f"stream:{tmp_path}").test.images}
    write_folder(tmp_path / "train", range(300, 303))
    after = {number_of(image) for image in load(f"stream:{tmp_path}").test.images}
    assert len(before ^ after) <= 2 * 3


def test_carving_parquet_reads_few_row_groups(tmp_path):
    write_parquet(tmp_path / "train.parquet", range(500), group=10)
    write_parquet(tmp_path / "test.parquet", range(500, 510))
    data = load(f"stream:{tmp_path}")
    numbers = np.array([number_of(image) for image in data.search.images])
    assert len(numbers) >= 99
    assert len(np.unique(numbers // 10)) < 15  # of 50; 100 rows lie in 10 at least


def test_the_sample_is_of_train_and_fixes_the_normalisation(data):
    stream = data.train
    assert len(stream.sample) == len(stream)
    assert {number_of(image) for image in stream.sample.images} == {
        number_of(image) for batch in batches(stream, range(-(-len(stream) // 10))) for image in batch.images
    }
    pixels = data.normalise(stream.sample.images)
    assert abs(pixels.mean().item()) < 1e-4


@pytest.mark.parametrize("kind", FORMATS)
def test_a_process_that_judges_nothing_holds_the_same_stream_and_no_other_split(tmp_path, kind):
    folder = write(kind, tmp_path)
    whole, part = load(folder), load(folder, replace(QUICK, train_only=True))
    assert (len(part.search), len(part.test)) == (0, 0)
    assert min(len(whole.search), len(whole.test)) > 0
    assert (part.train.digest, part.normalise) == (whole.train.digest, whole.normalise)
    with whole.train.reader(8, 1) as one, part.train.reader(8, 1) as other:
        assert same(one.batch(3), other.batch(3))


def test_the_hash_is_of_names_and_labels_and_not_of_the_place(tmp_path):
    spec = write("tar", tmp_path / "a")
    found = {load(spec).hashes["train"]}
    (tmp_path / "a").rename(tmp_path / "b")
    assert load(f"stream:{tmp_path / 'b'}").hashes["train"] in found
    for name, options in (("c", {"label": lambda i: (i + 1) % 3}), ("d", {"train": range(1, N + 1)})):
        found.add(load(write("tar", tmp_path / name, **options)).hashes["train"])
    found.add(load(spec.replace("/a", "/b"), resolution=8).hashes["train"])
    assert len(found) == 4


def test_a_pattern_names_its_shards(tmp_path):
    write("tar", tmp_path)
    data = load(f"stream:{tmp_path}/train-{{000..001}}.tar")
    assert len(data.train) + len(data.search) + len(data.test) == 60
    message = fails(f"stream:{tmp_path}/train-{{000..004}}.tar", "train-003.tar", "and 1 more of 5", "missing")
    assert "train-002" not in message
    fails(f"stream:{tmp_path}/train-{{5..1}}.tar", "5..1", "expected")


def test_a_gap_in_numbered_shards_is_noted(tmp_path):
    spec = write("tar", tmp_path)
    assert not any("have no file" in note for note in load(spec).notes)
    (tmp_path / "train-001.tar").unlink()
    assert "1 numbers between train-000.tar and train-002.tar have no file" in load(spec).notes


def test_names_with_the_split_within(tmp_path):
    write_tar(tmp_path / "set-train-0000.tar", range(60))
    write_tar(tmp_path / "set-validation-00.tar", range(60, 90))
    data = load(f"stream:{tmp_path}")
    assert len(data.test) == 30
    assert len(data.train) + len(data.search) == 60


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"ahead": -1}, {"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"max_bad": float("nan")}]
)
def test_options_that_make_no_sense(options):
    with pytest.raises(DataError, match=next(iter(options))):
        StreamOptions(**options)


# Faults


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bad_image_is_named_and_replaced_the_same_way(tmp_path, kind):
    spec = write(kind, tmp_path, encode=broken(5, 40))
    data = load(spec)
    stream, steps = data.train, range(27)
    first = batches(stream, steps)
    names = {
        "parquet": ["train-00000-of-00003.parquet, row 5", "train-00001-of-00003.parquet, row 10"],
        "tar": ["train-000.tar, row 5", "train-001.tar, row 10"],
        "folder": ["0005.jpg", "0040.jpg"],
    }[kind]
    there = [name for name in names if any(name in line for line in stream.bad.values())]
    left_out = [name for name in names if any(name in note for note in data.notes)]
    assert sorted(there + left_out) == sorted(names)
    again = load(spec, StreamOptions(window=20, groups=2, workers=1, ahead=0)).train
    assert all(map(same, batches(again, reversed(steps)), reversed(first)))
    for batch in first:
        for image, label, sample in zip(batch.images, batch.labels, batch.samples, strict=True):
            assert number_of(image) not in (5, 40)
            assert label == label_of(number_of(image)) == stream.labels[sample]


def test_too_many_bad_images_stop(tmp_path):
    write_tar(tmp_path / "train.tar", range(N), encode=broken(*range(0, N, 3)))
    source = TarSource.open([tmp_path / "train.tar"], None, print)
    for most, allowed in ((None, 10), (4, 4), (0, 0), (0.05, 4)):
        stream = Stream(source, np.arange(N), SIDE, 3, StreamOptions(max_bad=most))
        with pytest.raises(DataError, match=rf"train.tar, row \d+: .* bad images of 90, at most {allowed} allowed"):
            batches(stream, range(9))
    stream = Stream(source, np.arange(N), SIDE, 3, StreamOptions(max_bad=30))
    assert len({number_of(image) for batch in batches(stream, range(9)) for image in batch.images}) <= 60
    assert len(stream.bad) == 30


def test_no_good_image_at_all(tmp_path):
    write_tar(tmp_path / "train.tar", range(40), encode=broken(*range(40)))
    fails(f"stream:{tmp_path}", "train.tar, row", "bad images")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_goes_missing_is_named(tmp_path, kind):
    stream = load(write(kind, tmp_path)).train
    for file in [*tmp_path.glob("train*.*"), *tmp_path.glob("train/*/*")]:
        file.unlink()
    before = set(threading.enumerate())
    with pytest.raises(DataError, match="cannot be read") as caught:
        batches(stream, [0])
    assert "\n" not in str(caught.value)
    assert set(threading.enumerate()) == before


def test_a_missing_shard_is_refused(tmp_path):
    spec = write("parquet", tmp_path)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    fails(spec, "shard 1 of 3 of train is missing")


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_class_out_of_range_is_refused_with_shard_and_row(tmp_path, kind):
    spec = write(kind, tmp_path, label=lambda i: 7 if i == 34 else label_of(i))
    fails(spec, "row 4: class index 7 is out of range, expected 0 to 2", "train-", "1", num_classes=3)
    write(kind, tmp_path, label=lambda i: -2 if i == 34 else label_of(i))
    fails(spec, "row 4: class index -2 is out of range")


def test_an_empty_shard_is_noted_and_a_hollow_one_refused(tmp_path):
    for kind, save in (("parquet", write_parquet), ("tar", write_tar)):
        folder = tmp_path / kind
        spec = write(kind, folder)
        save(folder / f"train-more.{kind}", [])
        data = load(spec)
        assert len(data.train) + len(data.search) == N
        assert any(f"train-more.{kind} without a sample" in note for note in data.notes)
        (folder / f"train-more.{kind}").write_bytes(b"")
        fails(spec, f"train-more.{kind} cannot be read")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_tar_that_is_cut_off_is_refused(tmp_path, share):
    spec = write("tar", tmp_path)
    whole = (tmp_path / "train-001.tar").read_bytes()
    (tmp_path / "train-001.tar").write_bytes(whole[: int(share * len(whole.rstrip(b"\0")))])
    fails(spec, "train-001.tar", "again")


def test_a_tar_cut_between_members_or_damaged_or_followed_by_another_is_refused(tmp_path):
    spec = write("tar", tmp_path)
    path = tmp_path / "train-001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        fifth = archive.getmembers()[10].offset
    path.write_bytes(whole[:fifth])
    fails(spec, "train-001.tar is cut off or damaged after byte", str(fifth))
    path.write_bytes(whole[: fifth + 148] + b"?" + whole[fifth + 149 :])
    fails(spec, "train-001.tar is cut off or damaged after byte", str(fifth))
    path.write_bytes(whole + whole)
    fails(spec, "train-001.tar is cut off or damaged")


@pytest.fixture(scope="module")
def small_tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "train.tar"
    write_tar(path, range(4), encode=lambda number: b"image")
    return path


@settings(max_examples=150)
@given(at=st.floats(0, 1, exclude_max=True), bytes_=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_a_tar_damaged_anywhere_is_read_or_refused_in_one_line(small_tar, at, bytes_, cut):
    whole = small_tar.read_bytes()
    place = int(at * len(whole))
    path = small_tar.with_name("damaged.tar")
    path.write_bytes(whole[:place] + bytes_ + (b"" if cut else whole[place + len(bytes_) :]))
    message = ""
    try:
        TarSource.open([path], None, print)
    except DataError as error:
        message = str(error)
    assert message == "" or "damaged.tar" in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]), at=st.floats(0, 1, exclude_max=True), bytes_=st.binary(max_size=12)
)
def test_a_damaged_image_decodes_or_is_a_bad_image(kind, at, bytes_):
    whole = picture(77, kind)
    place = int(at * len(whole))
    crop = Crop(SIDE, 3, (0.08, 1.0), (3 / 4, 4 / 3))
    draws = crop.draws(0, np.array([0]), np.array([0]))[0].tolist()
    with contextlib.suppress(BadImageError):
        assert crop(whole[:place] + bytes_ + whole[place + len(bytes_) :], draws).shape == (3, SIDE, SIDE)


def test_tars_that_are_packed_are_refused(tmp_path):
    write_tar(tmp_path / "train.tar", range(9))
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "train.tar", "train.tar")
    fails(f"stream:{tmp_path / 'packed.tar.gz'}", "uncompressed")
    (tmp_path / "train.tar").write_bytes((tmp_path / "packed.tar.gz").read_bytes())
    fails(f"stream:{tmp_path}", "train.tar cannot be read as an uncompressed tar file")


def test_names_are_keys_and_links_are_left_out(tmp_path):
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(40):
            stem = ["../x", "/etc/y", "a/b/../../z", "nested/w"][i % 4] + f"{i:03d}"
            for extension, content in (("JPG", picture(i)), ("json", json.dumps({"label": label_of(i)}).encode())):
                info = tarfile.TarInfo(f"{stem}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        for kind, name in (
            (tarfile.SYMTYPE, "link.jpg"),
            (tarfile.LNKTYPE, "hard.jpg"),
            (tarfile.DIRTYPE, "folder.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("README.md")
        archive.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    data = load(f"stream:{tmp_path / 'set'}")
    found = [number_of(image) for split in (data.train.sample, data.search, data.test) for image in split.images]
    assert sorted(found) == list(range(40))
    assert any("2 links and 1 files without an image in tar shards were left out" in note for note in data.notes)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("member", "fragment"),
    [
        (("0000.txt", b"3"), "no label"),
        (("0000.cls", b"cat"), "b'cat', expected a class index"),
        (("0000.cls", b"9" * 60), "expected a class index"),
        (("0000.cls", b"1" * 100), "100 bytes"),
        (("0000.json", b"{"), ".json cannot be read"),
        (("0000.json", b'{"label": true}'), "expected a class index"),
        (("0000.json", b'{"label": "\\n"}'), "expected a class index"),
        (("0000.json", b"[1]"), "no label"),
        (("0000.png", picture(0, "PNG")), "two images"),
    ],
)
def test_a_sample_without_a_class_index_is_refused(tmp_path, member, fragment):
    rest = [
        (f"{i:04d}.{extension}", content)
        for i in range(1, 9)
        for extension, content in (("jpg", picture(i)), ("cls", b"0"))
    ]
    write_tar(tmp_path / "train.tar", [], members=[*rest, ("0000.jpg", picture(0)), member])
    fails(f"stream:{tmp_path}", "train.tar, row 8 (key '0000')", fragment)


def test_an_index_is_kept_and_made_anew_where_it_is_damaged_or_stale(tmp_path):
    spec, kept = write("tar", tmp_path / "set"), tmp_path / "kept" / "here"
    options = StreamOptions(cache=kept, workers=2)
    hashes = load(spec, options).hashes
    files = sorted(kept.iterdir())
    assert len(files) == 4
    stamps = [file.stat().st_mtime_ns for file in files]
    assert load(spec, options).hashes == hashes == load(spec).hashes
    assert [file.stat().st_mtime_ns for file in files] == stamps
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert load(spec, options).hashes == hashes
    write_tar(tmp_path / "set" / "train-000.tar", range(200, 240))
    assert len(load(spec, options).train) + len(load(spec, options).search) == 100


def test_what_is_no_stream(tmp_path):
    fails("stream:/nowhere/at/all", "/nowhere/at/all does not exist")
    fails("stream:", "expected digits")
    fails(f"stream:{tmp_path}", "no train folder")
    (tmp_path / "a.txt").write_text("a")
    fails(f"stream:{tmp_path / 'a.txt'}", "expected .parquet or .tar files")
    write("tar", tmp_path)
    write_parquet(tmp_path / "train.parquet", range(3))
    fails(f"stream:{tmp_path}", "holds .parquet and .tar files, expected one kind")
