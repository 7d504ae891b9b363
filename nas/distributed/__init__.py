"""Work on a Ray cluster. The only room that knows ray."""

from nas.distributed.cluster import access_notes, capacity, cluster
from nas.distributed.device import RayDevice
from nas.distributed.pool import Pool, Terms
from nas.distributed.training import train_on_ray

__all__ = ["Pool", "RayDevice", "Terms", "access_notes", "capacity", "cluster", "train_on_ray"]
