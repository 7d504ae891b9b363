"""What the recipes of `examples/recipes` come to, at full size, without their data and devices: MACs and disk counted,
hours estimated. The figures in the recipes are from here.

    OMP_NUM_THREADS=1 python benchmarks/recipe_costs.py

Hours are MACs over an assumed rate. Its anchors are timm's published training throughputs (RTX 3090, AMP, NCHW:
results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv of huggingface/pytorch-image-models): 2,291 images a second of
deit_tiny, 1,459 of efficientnet_b0. At three times their MACs (1.26 and 0.39 G) those are 8.7 and 1.7 TMACs a second.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from nas.space import load_space
from nas.training import Setting, make_sampler
from nas.training.config import TrainConfig
from nas.training.plan import count_work

RECIPES = Path(__file__).resolve().parents[1] / "examples" / "recipes"
LABEL_BYTES = 40  # of an image and epoch, at the default top 10
DECODED = 300  # 500x375 JPEGs a second and core: docs/log.md
BACKWARD = 3  # forward, gradient by activations, gradient by weights


@dataclass(frozen=True)
class Case:
    """A recipe, how many images are left to train on after the search split, and the rate that is assumed."""

    recipe: str
    images: int
    processor: str
    peak_tmacs: float  # a second
    share: float  # of the peak that training reaches
    why: str
    jpegs: bool = False

    @property
    def macs_a_second(self) -> float:
        return self.peak_tmacs * 1e12 * self.share


CASES = (
    Case(
        "imagenet_elasticvit", 1_281_167 - 10_000, "A100 (bf16)", 156, 0.034,
        "2.5 TMACs/s on an RTX 3090, between the anchors; times 2.1, the ratio of memory bandwidths", jpegs=True,
    ),
    Case("imagenet100_day", 126_689 - 10_000, "RTX 3090 (bf16)", 35.5, 0.07, "between the anchors", jpegs=True),
    Case("cifar10", 45_000, "RTX 3090 (bf16)", 35.5, 0.11, "half of deit_tiny's: fewer tokens, narrower"),
    Case("digits", 1_081, "one CPU core (fp32)", 0.05, 0.2, "from the 70 s that these steps took, no estimate"),
)  # fmt: skip


def main() -> None:
    for case in CASES:
        options = tomllib.loads((RECIPES / f"{case.recipe}.toml").read_text())
        space = load_space(options["space"], options.get("num_classes"))
        known = {field.name for field in fields(TrainConfig)}
        config = TrainConfig(**{name: value for name, value in options.items() if name in known})
        sampler = make_sampler(config.sampler, Setting(space, config.subnets_per_step, config.seed))
        work = count_work(space, config, sampler, case.images)
        seen = work.steps * config.batch_size
        forward = work.macs / seen / BACKWARD
        print(f"{case.recipe}: {work}")
        print(f"  {seen / 1e6:.4g} M images x {BACKWARD} x {forward / 1e6:.0f} MMACs = {work.macs:.3g} MACs")
        seconds = work.macs / case.macs_a_second
        hours = f"{seconds / 3600:.3g} hours" if seconds > 600 else f"{seconds:.0f} s"
        print(f"  {case.processor}: {hours} at {case.share:.1%} of {case.peak_tmacs:g} TMACs/s ({case.why})")
        if case.jpegs:
            print(f"  decoding: {seen / DECODED / 3600:.3g} core-hours at {DECODED} images/s and core")
            print(f"  stored labels of all epochs: {seen * LABEL_BYTES / 1e9:.3g} GB")


if __name__ == "__main__":
    main()
