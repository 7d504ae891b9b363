"""Training a supernet: samplers, the loop, checkpoints, and evaluating what its subnets inherit."""

from nas.training.checkpoint import SupernetInfo, load_supernet
from nas.training.evaluate import Evaluation, evaluate, evaluate_network
from nas.training.inherit import inherit, recalibrate
from nas.training.log import Progress
from nas.training.loop import estimate, train, workload
from nas.training.plan import Plan, Work
from nas.training.samplers import Draw, Level, Sampler, Setting, cost_levels, make_sampler, sampler_options
from nas.training.session import Trained
from nas.training.threads import torch_threads

__all__ = [
    "Draw",
    "Evaluation",
    "Level",
    "Plan",
    "Progress",
    "Sampler",
    "Setting",
    "SupernetInfo",
    "Trained",
    "Work",
    "cost_levels",
    "estimate",
    "evaluate",
    "evaluate_network",
    "inherit",
    "load_supernet",
    "make_sampler",
    "recalibrate",
    "sampler_options",
    "torch_threads",
    "train",
    "workload",
]
