"""How many examples one forward pass without gradients takes: bounded by the bytes of its activations.

ResNet-18 at 224 pixels needs some 7 MB per image, so that 4,096 images at once would take 27 GB.
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
        network: Its mode is restored.
        shape: Of one example at depth `start`, such as (C, H, W).
        start: Depth of the inputs.
    """
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // activation_bytes(network, shape, start)))


@torch.no_grad()
def activation_bytes(network: LayeredNetwork, shape: Iterable[int], start: int = 0) -> int:
    """Return the bytes that one example needs in evaluation mode: inputs and outputs of the largest layer.

    Earlier activations are freed by then, except those that a skip connection keeps.
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
