"""How a supernet lends its tensors to the plain modules that subnets are made of.

What a module borrows is cut out of a stored tensor (`layers.cut`). Where the cut is a view, as it mostly is, it is made
once and lent again and again. Autograd takes it for a weight of its own, and its gradient is the same view of the
stored tensor's gradient, so that what the module learns is added up where it belongs. Had autograd to find its way back
through the cut, each cut would cost a tensor of the stored size, filled with zeros and added up, a backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.model.layers import WidthNorms, cut

Tensors = dict[str, Tensor]
Sums = dict[Any, Tensor]
"""Of stored parameters, the tensors in which their gradients are summed up, kept from step to step."""

# Gradients of views have gaps in memory, as the views have. It costs nothing that could be measured.
warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")


class Loan:
    """One tensor of a module and the stored one it is cut from.

    stored, part: the module that owns the stored tensor, and its smaller twin; source, target: the dict of parameters,
    or of buffers, of each. Dicts and not tensors, since loading and moving a network may replace those."""

    __slots__ = ("_address", "_key", "_own", "_part", "_source", "_stored", "_sums", "_target", "_view")

    def __init__(
        self, stored: nn.Module, source: Tensors, part: nn.Module, target: Tensors, key: str, sums: Sums
    ) -> None:
        self._stored, self._source, self._part, self._target = stored, source, part, target
        self._key, self._sums = key, sums
        self._own = target[key]  # what stands there between loans; its shape is the one that is wanted
        self._view: Tensor | None = None
        self._address = 0

    def lend(self) -> None:
        """Puts the cut in its place, for a forward pass and what its backward pass needs."""
        stored = self._source[self._key]
        if stored.shape == self._own.shape:
            self._target[self._key] = stored
            return
        view = self._view
        if view is None or self._address != stored.data_ptr() or view.requires_grad != stored.requires_grad:
            view = self._made(stored)
        self._target[self._key] = view

    def take_back(self) -> None:
        """Puts there again what stood there."""
        self._target[self._key] = self._own

    def expect_gradient(self) -> None:
        """Before a backward pass: what the view learns is to be added to the gradient that the stored tensor has."""
        view = self._view
        if view is None or not view.requires_grad:
            return
        stored = self._source[self._key]
        total = self._sums.get(stored)
        if total is None or stored.grad is not total:
            total = self._sum(stored, total)
        if view.grad is None:
            view.grad = total.as_strided(view.shape, view.stride(), view.storage_offset() - stored.storage_offset())

    def copy(self) -> None:
        """Copies the cut into the module's own tensor."""
        with torch.no_grad():
            self._own.copy_(self._cut(self._source[self._key]))

    def _made(self, stored: Tensor) -> Tensor:
        """The cut: as a leaf to be kept where it is a view, else, computed, for this time alone."""
        with torch.inference_mode(False):  # it may be made where nothing is trained, and kept for where something is
            view = self._cut(stored.detach())
            if view.untyped_storage().data_ptr() != stored.untyped_storage().data_ptr():
                return self._cut(stored)
            view.requires_grad_(stored.requires_grad)
        self._view, self._address = view, stored.data_ptr()
        return view

    def _sum(self, stored: Tensor, total: Tensor | None) -> Tensor:
        """Makes `total`, or a new tensor where there is none, the gradient of `stored`, with the value that it has."""
        if total is None or total.device != stored.device or total.dtype != stored.dtype:
            total = self._sums[stored] = torch.empty_like(stored)
        if stored.grad is None:
            total.zero_()
        else:
            total.copy_(stored.grad)
        stored.grad = total
        return total

    def _cut(self, tensor: Tensor) -> Tensor:
        if tensor.shape == self._own.shape:
            return tensor
        return cut.dispatch(type(self._part))(self._part, self._stored, tensor, self._own.shape)


class Borrower(NamedTuple):
    """A module without weights of its own, and all that it borrows."""

    module: nn.Module
    loans: list[Loan]

    def run(self, x: Tensor, training: bool) -> Tensor:
        """What the module makes of `x`."""
        if self.module.training != training:
            self.module.train(training)
        for loan in self.loans:
            loan.lend()
        try:
            return self.module(x)
        finally:
            for loan in self.loans:
                loan.take_back()


def loans(stored: nn.Module, part: nn.Module, sums: Sums) -> list[Loan]:
    """Every tensor of `part`, paired with the tensor of `stored` that has the same name."""
    found = []
    for name, module in part.named_modules():
        twin = stored.get_submodule(name)
        if isinstance(twin, WidthNorms):
            twin = twin[str(module.num_features)]
        for source, target in ((twin._parameters, module._parameters), (twin._buffers, module._buffers)):
            found += [Loan(twin, source, module, target, key, sums) for key, own in target.items() if own is not None]  # type: ignore[arg-type]
    return found


def expect_gradients(output: Tensor, borrowers: Iterable[Borrower]) -> None:
    """Has the gradients of all that was lent for `output` go where they belong, once a backward pass comes to it."""

    def begin(gradient: Tensor) -> None:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "a supernet's gradients cannot be differentiated once more; extract the subnet and take its gradients"
            )
        for borrower in borrowers:
            for loan in borrower.loans:
                loan.expect_gradient()

    if output.requires_grad:
        output.register_hook(begin)  # type: ignore[no-untyped-call]
