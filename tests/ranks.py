"""A script that trains as one of several processes, for tests: torchrun ... ranks.py SPACE OUT STEPS [SAMPLER]."""

import sys

import torch

from nas.data import load_data
from nas.space import load_space
from nas.training import Plan, train
from nas.training.ranks import speaks


def say(*words):
    """A line in one write: torchrun leaves output unbuffered, and the lines of two processes would mix."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    space, out, steps, sampler = sys.argv[1:5]
    steps = int(steps)
    data = load_data("digits", resolution=8, in_channels=1)
    plan = Plan(steps=steps, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=1.0)
    made = train(
        load_space(space), data, out, sampler=sampler, steps=steps, batch_size=32, subnets_per_step=3, plan=plan,
        checkpoint_every_s=0.0, progress=lambda now: say(now.step) if speaks() else None,
    )  # fmt: skip
    say("done", made.digest)
