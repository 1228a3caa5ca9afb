"""Count the MACs (multiply-accumulate operations) of a network, to predict the effect of freezing and caching."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.networks.layered import LayeredNetwork


def forward_macs(network: LayeredNetwork) -> list[int]:
    """Return the MACs of a forward pass on one example, per block and (last) for the head."""
    from torch.utils.flop_counter import FlopCounterMode  # counts two FLOPs per MAC; ignores biases and activations

    counts = []
    was_training = network.training
    network.eval()
    values = torch.zeros(1, *network.architecture.image_shape, device=network.device)
    pooled_head = network.head if network.pool is None else torch.nn.Sequential(network.pool, network.head)
    with torch.no_grad(), _countable_attention():
        for module in (*network.blocks, pooled_head):
            with FlopCounterMode(display=False) as counter:
                values = module(values)
            counts.append(counter.get_total_flops() // 2)
    network.train(was_training)
    return counts


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Run attention as matrix products: the counter does not support PyTorch's fused kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def training_macs(network: LayeredNetwork, start: int = 0) -> int:
    """Return the MACs per example of one training step on activations after block `start`.

    Every layer costs one forward pass. A trained layer costs another one for its weight gradients, and a layer above a
    trained one costs another one for its input gradients.
    """
    counts = forward_macs(network)
    forward = sum(counts[start:])
    weight_gradients = sum(counts[index] for index in (*network.trained, len(network.blocks)))
    return forward + weight_gradients + sum(counts[network.frozen + 1 :])


def trainable_fraction(network: LayeredNetwork) -> float:
    """Return the fraction of all parameters that is trained."""
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)
