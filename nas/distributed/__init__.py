"""Work on a Ray cluster. The only room that knows ray."""

from nas.distributed.training import train_on_ray

__all__ = ["train_on_ray"]
