"""Training a supernet: samplers, the loop, checkpoints, and evaluating what its subnets inherit."""

from nas.training.checkpoint import SupernetInfo, load_supernet
from nas.training.evaluate import Evaluation, evaluate, torch_threads
from nas.training.loop import Progress, Trained, estimate, train
from nas.training.plan import Plan
from nas.training.samplers import Complexity, Draw, Level, Sampler, Sandwich, Uniform, cost_levels, make_sampler

__all__ = [
    "Complexity",
    "Draw",
    "Evaluation",
    "Level",
    "Plan",
    "Progress",
    "Sampler",
    "Sandwich",
    "SupernetInfo",
    "Trained",
    "Uniform",
    "cost_levels",
    "estimate",
    "evaluate",
    "load_supernet",
    "make_sampler",
    "torch_threads",
    "train",
]
