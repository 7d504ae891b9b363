"""Reading data sets: layouts, splits, and one clear line where a set cannot be read."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.data import SPLITS, Normalise, Split, load_data
from nas.data.split import carve, check_disjoint, three_splits
from nas.errors import DataError

COLOUR = {"resolution": 8, "in_channels": 3}


def pictures(n, seed=0, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, images, labels, *, nested=True, image="image", label="label", names=None, extra=None):
    encoded = [data if isinstance(data, bytes | None) else png(data) for data in images]
    column = [{"bytes": data, "path": None} for data in encoded] if nested else encoded
    columns = {image: column, label: labels} | (extra or {})
    table = pa.table(columns)
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)


def cyclic(n, classes=3):
    return [i % classes for i in range(n)]


def fails(spec, *fragments, **options):
    with pytest.raises(DataError) as caught:
        load_data(spec, **COLOUR | options)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


def test_digits_are_scikit_learns_in_three_disjoint_splits():
    from sklearn.datasets import load_digits

    data = load_data("digits", resolution=8, in_channels=1, num_classes=10)
    whole = sorted(image.astype(np.uint8).tobytes() for image in load_digits().images)
    found = [image.tobytes() for name in SPLITS for image in getattr(data, name).images.numpy()]
    assert sorted(found) == whole
    assert sum("carved" in note for note in data.notes) == 2
    assert set(data.hashes) == set(SPLITS)
    assert len(set(data.hashes.values())) == 3
    for name in SPLITS:
        share = np.bincount(getattr(data, name).labels, minlength=10) / len(getattr(data, name))
        assert abs(share - 0.1).max() < 0.01


def test_loading_twice_gives_the_same_splits():
    first, second = (load_data("digits", resolution=8, in_channels=1) for _ in range(2))
    assert first.hashes == second.hashes
    assert torch.equal(first.train.images, second.train.images)


def test_normalised_train_split_has_zero_mean_and_unit_variance():
    data = load_data("digits", resolution=8, in_channels=1)
    pixels = data.normalise(data.train.images)
    assert abs(pixels.mean().item()) < 1e-5
    assert pixels.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_a_constant_channel_is_left_at_its_scale():
    assert Normalise((5.0,), (1.0,))(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)).tolist() == [[[[2, 2], [2, 2]]]]


def test_digits_want_their_own_size():
    fails("digits", "8x8 with 1 channel", "32x32 with 3", resolution=32)


@pytest.mark.parametrize("spec", ["cifar", "parquet:", "folder", "zip:x"])
def test_unknown_data(spec):
    fails(spec, "expected digits, parquet:PATH or folder:DIR")


def test_path_that_does_not_exist():
    fails("parquet:/nowhere/at/all", "/nowhere/at/all does not exist")


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("names", [("image", "label"), ("picture", "kind")])
def test_one_parquet_file_in_any_columns(tmp_path, nested, names):
    images, labels = pictures(60), cyclic(60)
    write_parquet(tmp_path / "all.parquet", images, labels, nested=nested, image=names[0], label=names[1])
    data = load_data(f"parquet:{tmp_path / 'all.parquet'}", **COLOUR)
    assert [len(getattr(data, name)) for name in SPLITS] == [36, 12, 12]
    read = {image.tobytes(): int(label) for name in SPLITS for image, label in zip(*pair(data, name), strict=True)}
    assert read == {p.transpose(2, 0, 1).tobytes(): label for p, label in zip(images, labels, strict=True)}
    assert any("one file" in note for note in data.notes)


def pair(data, name):
    split = getattr(data, name)
    return split.images.numpy(), split.labels.numpy()


LAYOUTS = {
    "hub": [f"data/{name}.parquet" for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")],
    "side by side": ["train.parquet", "test.parquet"],
    "folders": ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
    "validation only": ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parquet_layouts_of_the_hub(tmp_path, layout):
    for i, name in enumerate(LAYOUTS[layout]):
        write_parquet(tmp_path / name, pictures(30, seed=i), cyclic(30), names=["cat", "dog", "owl"])
    data = load_data(f"parquet:{tmp_path}", **COLOUR, num_classes=3)
    shards = sum("train" in name for name in LAYOUTS[layout])
    assert len(data.train) + len(data.search) == 30 * shards
    assert np.array_equal(data.test.images.numpy(), pictures(30, seed=shards).transpose(0, 3, 1, 2))
    assert data.class_names == ("cat", "dog", "owl")


def test_validation_beside_test_is_the_search_split(tmp_path):
    for i, name in enumerate(["train", "validation", "test"]):
        write_parquet(tmp_path / f"{name}.parquet", pictures(30, seed=i), cyclic(30))
    data = load_data(f"parquet:{tmp_path}", **COLOUR)
    assert np.array_equal(data.search.images.numpy(), pictures(30, seed=1).transpose(0, 3, 1, 2))
    assert len(data.train) == 30


def test_shards_of_no_split_are_all_train(tmp_path):
    for i in range(2):
        write_parquet(tmp_path / f"part-{i}.parquet", pictures(30, seed=i), cyclic(30))
    data = load_data(f"parquet:{tmp_path}", **COLOUR)
    assert sum(len(getattr(data, name)) for name in SPLITS) == 60


def test_unlabelled_test_split_is_left_out_and_said(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60))
    write_parquet(tmp_path / "test.parquet", pictures(30, seed=1), [-1] * 30)
    data = load_data(f"parquet:{tmp_path}", **COLOUR)
    assert any("no labels" in note for note in data.notes)
    assert any("no test split" in note for note in data.notes)


def test_missing_shard(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00003.parquet", pictures(9), cyclic(9))
    write_parquet(tmp_path / "train-00002-of-00003.parquet", pictures(9), cyclic(9))
    fails(f"parquet:{tmp_path}", "shard 1 of 3 of train is missing")


def test_two_configurations_in_one_folder(tmp_path):
    for name in ("a", "b"):
        write_parquet(tmp_path / name / "train.parquet", pictures(9), cyclic(9))
    fails(f"parquet:{tmp_path}", "give one of them")


def test_columns_that_cannot_be_told_apart(tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures(9), cyclic(9), label="fine", extra={"coarse": cyclic(9)})
    fails(f"parquet:{tmp_path}", "2 columns of integers", "fine: int64", "coarse: int64")


def test_the_usual_name_decides_between_columns(tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures(60), cyclic(60), extra={"number": list(range(60))})
    assert load_data(f"parquet:{tmp_path}", **COLOUR).num_classes == 3


def test_corrupt_image_is_named_by_file_and_row(tmp_path):
    images = [png(p) for p in pictures(30)]
    images[17] = images[17][:60]
    write_parquet(tmp_path / "train.parquet", images, cyclic(30))
    fails(f"parquet:{tmp_path}", "train.parquet, row 17", "cannot be decoded")


def test_image_without_bytes(tmp_path):
    images = [png(p) for p in pictures(9)]
    images[4] = None
    write_parquet(tmp_path / "train.parquet", images, cyclic(9))
    fails(f"parquet:{tmp_path}", "row 4", "no image bytes")


def test_truncated_parquet(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(9), cyclic(9))
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    fails(f"parquet:{tmp_path}", "train.parquet", "cannot be read as parquet")


def test_damaged_parquet_page(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(30), cyclic(30))
    whole = bytearray((tmp_path / "train.parquet").read_bytes())
    whole[4:400] = bytes(396)
    (tmp_path / "train.parquet").write_bytes(bytes(whole))
    fails(f"parquet:{tmp_path}", "train.parquet")


def test_class_index_out_of_range(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), [*cyclic(59), 7])
    fails(f"parquet:{tmp_path}", "row 59", "class index 7", "0 to 2", num_classes=3)
    write_parquet(tmp_path / "train.parquet", pictures(60), [*cyclic(59), -2])
    fails(f"parquet:{tmp_path}", "row 59", "class index -2")


def test_class_count_mismatch(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60))
    fails(f"parquet:{tmp_path}", "3 classes", "expects 10", "num_classes=3", num_classes=10)
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60), names=["a", "b", "c"])
    fails(f"parquet:{tmp_path}", "3 classes", "expects 2", num_classes=2)


def test_class_without_training_images(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60), names=["a", "b", "c", "d"])
    fails(f"parquet:{tmp_path}", "class 3 has no image in train")


def test_other_sizes_are_resized_and_said(tmp_path):
    write_parquet(tmp_path / "train.parquet", [png(p) for p in pictures(60, size=16)], cyclic(60))
    data = load_data(f"parquet:{tmp_path}", **COLOUR)
    assert data.train.images.shape[2:] == (8, 8)
    assert any("60 images of 16x16 were resized to 8x8" in note for note in data.notes)


def test_enlarging_a_thumbnail_makes_no_sense(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60))
    fails(f"parquet:{tmp_path}", "row 0", "8x8", "too small for resolution 224", resolution=224)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": 10**6}, {"in_channels": 2}])
def test_sizes_that_make_no_sense(tmp_path, options):
    write_parquet(tmp_path / "train.parquet", pictures(9), cyclic(9))
    fails(f"parquet:{tmp_path}", "expected", **options)


def test_more_images_than_memory(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(3000, size=1), cyclic(3000))
    fails(f"parquet:{tmp_path}", "GiB", "smaller resolution", resolution=4096)


def test_grey_and_colour(tmp_path):
    write_parquet(tmp_path / "train.parquet", pictures(60), cyclic(60))
    assert load_data(f"parquet:{tmp_path}", resolution=8, in_channels=1).train.images.shape[1] == 1


def write_folder(root, split, classes, n, seed=0):
    for i, pixels in enumerate(pictures(n, seed)):
        path = root / split / classes[i % len(classes)] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))


@pytest.mark.parametrize("final", ["val", "test"])
def test_folder_of_class_folders(tmp_path, final):
    write_folder(tmp_path, "train", ["owl", "cat"], 60)
    write_folder(tmp_path, final, ["owl", "cat"], 20, seed=1)
    (tmp_path / "train" / "owl" / ".hidden.png").write_bytes(b"x")
    data = load_data(f"folder:{tmp_path}", **COLOUR)
    assert data.class_names == ("cat", "owl")
    assert (len(data.train) + len(data.search), len(data.test)) == (60, 20)
    by_pixels = {p.transpose(2, 0, 1).tobytes(): i % 2 for i, p in enumerate(pictures(20, 1))}
    for image, label in zip(data.test.images.numpy(), data.test.labels, strict=True):
        assert by_pixels[image.tobytes()] == 1 - label


def test_folder_mistakes(tmp_path):
    fails(f"folder:{tmp_path}", "no train folder")
    write_folder(tmp_path, "val", ["owl"], 2)
    fails(f"folder:{tmp_path}", "no train split")
    write_folder(tmp_path, "train", ["cat"], 2)
    fails(f"folder:{tmp_path}", "owl", "no such class under train/")
    (tmp_path / "train" / "cat" / "000.png").write_bytes(b"no image")
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "cat")
    fails(f"folder:{tmp_path}", "000.png", "cannot be decoded")
    fails(f"folder:{tmp_path / 'train' / 'cat' / '000.png'}", "is a file")


def test_shared_images_are_dropped_from_train_and_said(tmp_path):
    images = pictures(60)
    write_parquet(tmp_path / "train.parquet", images, cyclic(60))
    write_parquet(tmp_path / "test.parquet", [*images[:5], *pictures(10, seed=1)], cyclic(15))
    data = load_data(f"parquet:{tmp_path}", **COLOUR)
    assert len(data.test) == 15
    assert len(data.train) + len(data.search) == 55
    assert any("dropped from train" in note for note in data.notes)


def random_split(rng, n, distinct):
    images = rng.integers(0, distinct, (n, 1, 1, 1), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.from_numpy(rng.integers(0, 3, n)))


@given(st.integers(0, 2**31), st.integers(20, 200), st.integers(30, 256), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_splits_are_disjoint_whatever_they_share(seed, n, distinct, has_search, has_test):
    rng = np.random.default_rng(seed)
    found = {"train": random_split(rng, n, distinct)}
    found |= {name: random_split(rng, n, distinct) for name, has in [("search", has_search), ("test", has_test)] if has}
    splits, _ = three_splits(found)
    sets = {name: set(split.images.flatten().tolist()) for name, split in splits.items()}
    assert not sets["train"] & sets["search"] | sets["train"] & sets["test"] | sets["search"] & sets["test"]
    if has_test:
        assert torch.equal(splits["test"].images, found["test"].images)


def test_disjointness_is_asserted():
    split = random_split(np.random.default_rng(0), 5, 3)
    with pytest.raises(DataError, match="in train too"):
        check_disjoint({"train": split, "test": split})


@given(st.integers(0, 2**31), st.integers(10, 300), st.floats(0.05, 0.5))
@settings(max_examples=40, deadline=None)
def test_carving_is_a_stratified_partition(seed, n, share):
    split = random_split(np.random.default_rng(seed), n, 256)
    left, taken = carve(split, round(share * n), seed=7)
    assert sorted(torch.cat([left.images, taken.images]).flatten().tolist()) == sorted(split.images.flatten().tolist())
    for label in split.labels.unique():
        count = int((split.labels == label).sum())
        out = int((taken.labels == label).sum())
        assert abs(out - share * count) <= 1.5
        assert count == 1 or out < count


def test_digest_sees_pixels_labels_and_order():
    split = Split(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.arange(4))
    relabelled = Split(split.images, split.labels.flip(0))
    reordered = split.take(np.array([1, 0, 2, 3]))
    assert len({split.digest, relabelled.digest, reordered.digest}) == 3
    assert split.take(np.arange(4)).digest == split.digest


@pytest.mark.slow
def test_cifar_copy(shared_data):
    data = load_data(f"parquet:{shared_data / 'cifar10'}", resolution=32, in_channels=3, num_classes=10)
    assert len(data.train) + len(data.search) in range(49_000, 50_001)
    assert len(data.test) == 5000
    assert data.class_names[0] == "airplane"
