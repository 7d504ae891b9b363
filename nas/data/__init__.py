"""Data sets in three disjoint splits, their normalisation and augmentation."""

from nas.data.augment import Augmentation, augmentation_for, keyed_uniform, mixup
from nas.data.batches import BatchOrder
from nas.data.load import load_data
from nas.data.reader import Reader, StreamBatch
from nas.data.resize import resize
from nas.data.split import SPLITS, Data, Normalise, Rows, Split, carve
from nas.data.stream import Stream, StreamOptions

__all__ = [
    "SPLITS",
    "Augmentation",
    "BatchOrder",
    "Data",
    "Normalise",
    "Reader",
    "Rows",
    "Split",
    "Stream",
    "StreamBatch",
    "StreamOptions",
    "augmentation_for",
    "carve",
    "keyed_uniform",
    "load_data",
    "mixup",
    "resize",
]
