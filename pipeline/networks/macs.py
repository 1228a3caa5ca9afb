"""Counting what a network computes: multiply-adds of its linear and convolution layers.

They dominate the time of an epoch, so their ratio is what theory says about freezing and caching.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.networks.layered import LayeredNetwork


def block_operations(network: LayeredNetwork) -> list[int]:
    """Return the multiply-adds of one example's forward pass, for each block and, last, the head."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            counts[-1] += module.in_features * module.out_features
        elif isinstance(module, nn.Conv2d):
            kernel = module.weight[0].numel()  # one output value: kernel area times incoming channels
            counts[-1] += kernel * output[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            values = torch.zeros(1, *network.architecture.image_shape, device=network.head.weight.device)
            for block in network.blocks:
                counts.append(0)
                values = block(values)
            counts.append(0)
            network.head(values)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    return counts


def training_operations(network: LayeredNetwork, start: int = 0) -> int:
    """Return the multiply-adds of one example in one training step.

    A trained layer costs three times its forward pass (forward, gradient of its weights, gradient of its inputs),
    the lowest trained one only two; a frozen one costs its forward pass, and nothing below `start`.
    """
    counts = block_operations(network)
    frozen = sum(counts[start : network.frozen])
    trained = counts[network.frozen :]
    return frozen + 3 * sum(trained) - trained[0]


def trainable_share(network: LayeredNetwork) -> float:
    """Return the share of all parameters that is trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, trained in sizes if trained) / sum(size for size, _ in sizes)
