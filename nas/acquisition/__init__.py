"""Which rows are worth an expensive evaluation: expected hypervolume improvement by BoTorch. Arrays in, arrays out."""

from nas.acquisition.improvement import Improvement

__all__ = ["Improvement"]
