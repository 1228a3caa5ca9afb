"""Lower bounds of an epoch's time: its matrix products, and the bytes it has to move.

A floor is a callable that does exactly that work and nothing else for one epoch, so that it can be timed together
with the arms: at this machine's throughput for matrices of that shape, and its bandwidth for that much memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.networks.layered import LayeredNetwork

ADAM_COPIES = 3.5  # Adam makes 7 passes (reads weight, gradient, two moments; writes three), a copy makes 2


@dataclass(frozen=True)
class Product:
    """A matrix product (rows, inner) x (inner, columns); a transposed factor is stored column-major."""

    rows: int
    inner: int
    columns: int
    left_transposed: bool = False
    right_transposed: bool = False

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return both factors and an output tensor."""
        left = torch.randn(self.inner, self.rows).t() if self.left_transposed else torch.randn(self.rows, self.inner)
        right = (
            torch.randn(self.columns, self.inner).t()
            if self.right_transposed
            else torch.randn(self.inner, self.columns)
        )
        return left.to(dtype), right.to(dtype), torch.empty(self.rows, self.columns, dtype=dtype)


def layer_shapes(network: LayeredNetwork, start: int) -> list[tuple[int, int, int, bool]]:
    """Return (output positions, inputs, outputs, trained) per linear and convolution layer above depth `start`."""
    shapes: list[tuple[int, int, int, bool]] = []
    hooks = []

    def record(module: nn.Module, output: Tensor, *, trained: bool) -> None:
        if isinstance(module, nn.Linear):
            shapes.append((1, module.in_features, module.out_features, trained))
        elif isinstance(module, nn.Conv2d):
            shapes.append((output[0, 0].numel(), module.weight[0].numel(), module.out_channels, trained))

    for depth, part in enumerate((*network.blocks, network.head)):
        for module in part.modules() if depth >= start else ():
            trained = depth >= network.frozen
            hooks.append(module.register_forward_hook(lambda m, _, o, trained=trained: record(m, o, trained=trained)))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *network.architecture.image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def step_products(network: LayeredNetwork, batch_size: int, start: int = 0) -> list[Product]:
    """Return the matrix products of one training step: forward, weight gradients, input gradients."""
    products: list[Product] = []
    below_is_trained = False
    for positions, inputs, outputs, trained in layer_shapes(network, start):
        rows = batch_size * positions
        products.append(Product(rows, inputs, outputs, right_transposed=True))
        if trained:
            products.append(Product(outputs, rows, inputs, left_transposed=True))
            if below_is_trained:
                products.append(Product(rows, outputs, inputs))
        below_is_trained = trained
    return products


def products_floor(
    network: LayeredNetwork, count: int, batch_size: int, *, dtype: torch.dtype = torch.float32, start: int = 0
) -> Callable[[], None]:
    """Return a callable that computes only the matrix products of one epoch.

    Args:
        network: Its layers define the shapes.
        count: Examples per epoch.
        batch_size: A short last batch counts proportionally.
        dtype: Of the factors.
        start: Depth of the input activations.
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
    """Return a callable that copies each example into a batch, and Adam's state once per step."""
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
