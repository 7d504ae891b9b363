"""Search with objectives of your own: here, networks of `vit_cifar` with many parameters but little work per image.

    python examples/own_objective.py

`evaluate` gets a list of architectures and returns one row of losses for each; anything can be computed there, from a
formula to a training run. `explore` pays for 300 evaluations and never for the same architecture twice.
"""

import numpy as np

import nas


def evaluate(archs: list[nas.Arch]) -> np.ndarray:
    """Losses (n, 2), both minimised: MACs, and minus parameters, in millions."""
    costs = [nas.cost(arch) for arch in archs]
    return np.array([[cost.macs / 1e6, -cost.params / 1e6] for cost in costs])


if __name__ == "__main__":
    space = nas.load_space("vit_cifar")
    front = nas.explore(space, evaluate, evaluations=300, seed=0)
    order = np.argsort(front.losses[:, 0])
    for index in order[:: max(1, len(order) // 10)]:
        arch, (mmacs, params) = front.archs[index], front.losses[index]
        stage = arch.stages[0]
        print(
            f"{arch.id}  {mmacs:6.1f} MMACs  {-params:5.2f} M params  width {stage.width}, {len(stage.blocks)} blocks"
        )
