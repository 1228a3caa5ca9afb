"""What an epoch cannot take less than: its matrix products and the bytes it must move, both measured here and now.

A floor is a callable that does an epoch's worth of exactly that and nothing else, so that it can be timed in turn with
the arms: operations over the rate that this machine reaches for products of that shape, bytes over the bandwidth
that it reaches for that much memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.networks.layered import LayeredNetwork

ADAM_COPIES = 3.5  # Adam reads weight, gradient and two moments and writes three: 7 passes, and a copy makes two


@dataclass(frozen=True)
class Product:
    """A matrix product (rows, inner) x (inner, columns); a transposed factor lies in memory the other way round."""

    rows: int
    inner: int
    columns: int
    left_transposed: bool = False
    right_transposed: bool = False

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return two factors and a place for the result."""
        left = torch.randn(self.inner, self.rows).t() if self.left_transposed else torch.randn(self.rows, self.inner)
        right = (
            torch.randn(self.columns, self.inner).t()
            if self.right_transposed
            else torch.randn(self.inner, self.columns)
        )
        return left.to(dtype), right.to(dtype), torch.empty(self.rows, self.columns, dtype=dtype)


def layer_shapes(network: LayeredNetwork, start: int) -> list[tuple[int, int, int, bool]]:
    """Return (places an image, inputs, outputs, is trained) of every linear and convolution layer from a depth on."""
    shapes: list[tuple[int, int, int, bool]] = []
    hooks = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, trained: bool) -> None:
        if isinstance(module, nn.Linear):
            shapes.append((1, module.in_features, module.out_features, trained))
        elif isinstance(module, nn.Conv2d):
            shapes.append((output[0, 0].numel(), module.weight[0].numel(), module.out_channels, trained))

    for depth, part in enumerate((*network.blocks, network.head)):
        for module in part.modules() if depth >= start else ():
            trained = depth >= network.frozen
            hooks.append(module.register_forward_hook(lambda m, i, o, trained=trained: note(m, i, o, trained)))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *network.architecture.image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def step_products(network: LayeredNetwork, batch_size: int, start: int = 0) -> list[Product]:
    """Return the matrix products of one training step: forward, gradients of weights, gradients of inputs."""
    products: list[Product] = []
    below_is_trained = False
    for places, inputs, outputs, trained in layer_shapes(network, start):
        rows = batch_size * places
        products.append(Product(rows, inputs, outputs, right_transposed=True))
        if trained:
            products.append(Product(outputs, rows, inputs, left_transposed=True))
            if below_is_trained:
                products.append(Product(rows, outputs, inputs))
        below_is_trained = trained
    return products


def products_floor(network: LayeredNetwork, count: int, batch_size: int, dtype: torch.dtype = torch.float32,
                   start: int = 0) -> Callable[[], None]:  # fmt: skip
    """Return a callable that computes an epoch's matrix products, and nothing else.

    Args:
        network: Whose layers.
        count: Examples in an epoch.
        batch_size: Of a step; a short last batch counts as what it is of a whole one.
        dtype: Of the factors.
        start: The depth at which values enter.
    """
    factors = [product.factors(dtype) for product in step_products(network, batch_size, start)]
    steps = max(1, round(count / batch_size))

    def epoch() -> None:
        with torch.no_grad():
            for _ in range(steps):
                for left, right, out in factors:
                    torch.mm(left, right, out=out)

    return epoch


def bytes_floor(network: LayeredNetwork, values: Tensor, batch_size: int) -> Callable[[], None]:
    """Return a callable that moves what an epoch must: every example into a batch, Adam's state once a step."""
    count = len(values)
    batch = torch.empty_like(values[:batch_size])
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    source, target = torch.randn(int(ADAM_COPIES * trained)), torch.empty(int(ADAM_COPIES * trained))

    def epoch() -> None:
        for begin in range(0, count, batch_size):
            part = values[begin : begin + batch_size]
            batch[: len(part)].copy_(part)
            target.copy_(source)

    return epoch
