"""One network whose weights every architecture of a space shares.

The supernet stores the weights of the largest sizes of its space. To run a smaller network, each of its parts is run as
the plain module it is, with the stored tensors cut down to that module's shapes (`layers.cut`) and lent to it: mostly
prefixes along every axis, views without a copy. `extract` copies the same cuts into a network of their own, so both
compute the same numbers by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Arch, Flow
from nas.errors import SpaceError
from nas.model.layers import WidthNorms
from nas.model.lending import Borrower, Sums, expect_gradients, loans
from nas.model.network import MODULES, Network, check_images, map_ends, maps, modules_of, network_parts, run
from nas.space import SearchSpace

KEPT_ARCHS, KEPT_PARTS = 4096, 8192  # that are remembered; a part takes some 20 kB


class Supernet(nn.Module):
    """Weights shared by all architectures of `space`. Holds no architecture: each call names the one it runs.

    Gradients come by `backward()`, into tensors that are used again after `zero_grad`: clone what you keep. What looks
    for the stored parameters in the graph (`torch.autograd.grad`, DistributedDataParallel) finds only those that ran
    whole; see `lending`. One instance is not to be called from two threads at once.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.network = Network(space.stored, stored=space.size > 1)
        if space.spec.batch_norm == "per_width":
            _separate_norms(self.network, space)
        self._forget()

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """(B, C, R, R) normalised images at the architecture's resolution -> (B, K) logits.

        Raises SpaceError for an architecture that is not of the space, InputError for images of another shape.
        """
        parts = self._parts(images, arch)
        logits = run(self._running(parts), images)
        expect_gradients(logits, parts)
        return logits

    def feature_maps(self, images: Tensor, arch: Arch) -> list[Tensor]:
        """As `Network.feature_maps` of the architecture: the last map (B, W, G, G) of each size, largest first."""
        parts = self._parts(images, arch)
        found = maps(self._running(parts), images, map_ends(arch))
        for output in found:
            expect_gradients(output, parts)
        return found

    def _running(self, parts: list[Borrower]) -> Iterator[Callable[[Tensor], Tensor]]:
        return (partial(part.run, training=self.training) for part in parts)

    def _parts(self, images: Tensor, arch: Arch) -> list[Borrower]:
        check_images(images, arch)
        return self._parts_of.get(arch) or self._find(arch)

    def _find(self, arch: Arch) -> list[Borrower]:
        try:
            self.space.encode([arch])
        except SpaceError as error:
            raise SpaceError(f"this supernet cannot run architecture {arch.id}: {error}") from None
        if len(self._parts_of) >= KEPT_ARCHS or len(self._borrowers) >= KEPT_PARTS:
            self._forget()
        pairs = zip(network_parts(self.network, arch, stored=True), modules_of(arch), strict=True)
        self._parts_of[arch] = [self._borrower(stored, module, sizes) for stored, (module, sizes) in pairs]
        return self._parts_of[arch]

    def _borrower(self, stored: nn.Module, module: Callable[..., nn.Module], sizes: tuple[Any, ...]) -> Borrower:
        """A part of those sizes that borrows from `stored`."""
        key = id(stored), sizes
        if key not in self._borrowers:
            if sizes not in self._modules_of_sizes:  # on the meta device: sizes and code without weights
                with torch.device("meta"):
                    self._modules_of_sizes[sizes] = module(*sizes)
            part = self._modules_of_sizes[sizes]
            self._borrowers[key] = Borrower(part, loans(stored, part, self._sums))
        return self._borrowers[key]

    def _forget(self) -> None:
        """Nothing but speed is lost."""
        self._parts_of: dict[Arch, list[Borrower]] = {}
        self._borrowers: dict[Any, Borrower] = {}
        self._modules_of_sizes: dict[Any, nn.Module] = {}
        self._sums: Sums = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without loans: those of a copy must be of its own tensors."""
        return self.__dict__ | {"_parts_of": {}, "_borrowers": {}, "_modules_of_sizes": {}, "_sums": {}}


def extract(supernet: Supernet, arch: Arch) -> Network:
    """A plain network with its own copy of the weights `arch` inherits. In eval mode, fp32 and one thread its outputs
    equal the supernet's bit for bit. Raises SpaceError for an architecture that is not of the supernet's space."""
    supernet.space.encode([arch])
    with torch.device("meta"):
        network = Network(arch)
    network.to_empty(device=next(supernet.parameters()).device)
    pairs = zip(network_parts(supernet.network, arch, stored=True), network_parts(network, arch), strict=True)
    for stored, part in pairs:
        for loan in loans(stored, part, {}):
            loan.copy()
    return network.train(supernet.training)


def _separate_norms(network: Network, space: SearchSpace) -> None:
    """A batch norm of its own for every number of channels that an architecture may ask for (slimmable networks,
    arXiv:1812.08928), in place of one that all share."""
    for part, variants in zip(network.parts(), space.variants(), strict=True):
        widths: dict[str, set[int]] = {}
        with torch.device("meta"):
            shells = [MODULES[type(spec)](spec, flow, width) for spec, flow, width in _apart(variants)]
        for shell in shells:
            for name, module in shell.named_modules():
                if isinstance(module, nn.BatchNorm2d):
                    widths.setdefault(name, set()).add(module.num_features)
        for name, found in widths.items():
            part.set_submodule(name, WidthNorms({str(w): nn.BatchNorm2d(w) for w in sorted(found)}))


def _apart(variants: Iterable[tuple[Any, Flow, int]]) -> Iterable[tuple[Any, Flow, int]]:
    """One of those variants that differ in their map alone."""
    return {(spec, flow.width, width): (spec, flow, width) for spec, flow, width in variants}.values()
