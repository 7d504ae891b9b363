"""Pictures that say their number, and small sets of them in every form that a stream reads."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

N = 90
CLASSES = 3
FORMATS = ("parquet", "tar", "folder")


def picture(number, kind="JPEG", size=(40, 32)):
    """An image of one colour that says its number, whatever is cropped out of it."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour(number)).save(
        stream, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )
    return stream.getvalue()


def textured(number):
    """An image of which no two crops are alike."""
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def colour(number):
    return tuple(16 + 32 * (number // 8**i % 8) for i in range(3))


def number_of(image):
    """The inverse of `picture`, from an image (3, H, W)."""
    levels = np.rint((image.numpy().reshape(3, -1).mean(axis=1) - 16) / 32).astype(int)
    return int(sum(level * 8**i for i, level in enumerate(levels)))


def label_of(number):
    return number % CLASSES


def write_parquet(path, numbers, *, encode=picture, label=label_of, group=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [{"bytes": encode(i), "path": None} for i in numbers], "label": [label(i) for i in numbers]}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(
        pa.table(rows, schema=pa.schema([("image", kind), ("label", pa.int64())])), path, row_group_size=group
    )


def write_tar(path, numbers, *, encode=picture, label=label_of, members=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = (
        [(f"{i:04d}.jpg", encode(i)) for i in numbers],
        [(f"{i:04d}.cls", f"{label(i)}\n".encode()) for i in numbers],
    )
    write_members(path, members or [member for pair in zip(*pairs, strict=True) for member in pair])


def write_members(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_folder(path, numbers, *, encode=picture, label=label_of):
    for i in numbers:
        file = path / f"c{label(i)}" / f"{i:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(i))


def write(kind, folder, train=range(N), test=range(100, 130), **options):
    """Three train shards and a test shard, or class folders; the spec."""
    train = list(train)
    if kind == "folder":
        write_folder(folder / "train", train, **options)
        write_folder(folder / "val", test)
        return f"stream:{folder}"
    save = write_parquet if kind == "parquet" else write_tar
    for shard in range(3):
        name = f"train-{shard:05d}-of-00003.{kind}" if kind == "parquet" else f"train-{shard:03d}.tar"
        save(folder / name, train[shard * len(train) // 3 : (shard + 1) * len(train) // 3], **options)
    save(folder / f"test.{kind}", test)
    return f"stream:{folder}"


def broken(*numbers, encode=picture):
    """Some of which cannot be decoded."""

    def some(number):
        return encode(number)[:200] if number in numbers else encode(number)

    return some
