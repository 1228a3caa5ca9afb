"""Choose the number of examples per forward pass without gradients, limited by the size of the activations.

ResNet-18 at 224 pixels needs about 7 MB per image: 4,096 images at once would take 27 GB.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.networks.layered import LayeredNetwork

MAX_CHUNK = 4096  # examples
CHUNK_BYTES = 96 << 20


def chunk_size(network: LayeredNetwork, shape: Iterable[int], start: int = 0) -> int:
    """Return the number of examples per forward pass in evaluation mode, in [1, 4096].

    Args:
        network: The network; its mode is restored.
        shape: Shape of one example at depth `start`, such as (C, H, W).
        start: Depth of the inputs.
    """
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // activation_bytes(network, shape, start)))


@torch.no_grad()
def activation_bytes(network: LayeredNetwork, shape: Iterable[int], start: int = 0) -> int:
    """Return the bytes per example in evaluation mode: inputs and outputs of the largest layer.

    Earlier activations have been freed, except for skip connections.
    """
    largest = 0

    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal largest
        largest = max(largest, sum(part.nbytes for part in (*inputs, output) if isinstance(part, Tensor)))

    layers = [module for module in network.modules() if not list(module.children())]
    handles = [layer.register_forward_hook(record) for layer in layers]
    was_training = network.training
    network.eval()
    try:
        example = torch.zeros(1, *shape, dtype=next(network.parameters()).dtype, device=network.device)
        network.logits(example, start)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return max(largest, example.nbytes)
