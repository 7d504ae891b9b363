"""NNI's strategies on our spaces (NNI 3.0, Microsoft; the extra `nni`). Nothing here imports NNI before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nas.integrations.nni.installed import prepare

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from nas.arch import Arch
    from nas.integrations.nni.engine import PoolEngine
    from nas.integrations.nni.model_space import ModelSpace
    from nas.space import SearchSpace

__all__ = ["execution_engine", "model_space"]


def model_space(space: SearchSpace) -> ModelSpace:
    """A search space as NNI knows them: an `ExecutableModelSpace` with one `Categorical` a gene, whose values are the
    gene's choices. Models frozen from it have the attributes `row`, a canonical genotype (d,), and `arch`. InputError
    where NNI is not installed."""
    prepare()
    from nas.integrations.nni.model_space import ModelSpace

    return ModelSpace(space)


def execution_engine(evaluate: Callable[[list[Arch]], ArrayLike], evaluations: int, batch: int = 1) -> PoolEngine:
    """An NNI `ExecutionEngine` that evaluates what a strategy submits for it, and stops it after `evaluations` distinct
    architectures.

    evaluate: a list of up to `batch` architectures -> losses (n, k), all finite, to be minimised, as for `nas.explore`.
    NNI is told one number for each, and the engine keeps the losses: `genotypes` (n, d) and `losses` (n, k).
    InputError where NNI is not installed.

        engine = execution_engine(my_losses, evaluations=200)  # before anything of nni.nas is imported
        from nni.nas.strategy import RegularizedEvolution
        RegularizedEvolution()(model_space(nas.load_space("digits")), engine)
    """
    prepare()
    from nas.integrations.nni.engine import PoolEngine

    return PoolEngine(evaluate, evaluations, batch)
