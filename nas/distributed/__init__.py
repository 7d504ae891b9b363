"""Work on a Ray cluster. The only room that knows ray."""

from nas.distributed.cluster import access_notes, capacity, cluster
from nas.distributed.device import RayDevice
from nas.distributed.pool import Pool, Terms
from nas.distributed.training import train_on_ray
from nas.distributed.tuning import Means, each, tune

__all__ = [
    "Means",
    "Pool",
    "RayDevice",
    "Terms",
    "access_notes",
    "capacity",
    "cluster",
    "each",
    "train_on_ray",
    "tune",
]
