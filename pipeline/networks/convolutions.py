"""Memory format and precision of convolutional networks.

See docs/training.md for the measurements behind both rules.
"""

import logging
from typing import TypeVar

import torch
from torch import nn

from pipeline.networks.layered import LayeredNetwork

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=LayeredNetwork)


def convolutions(network: LayeredNetwork) -> list[nn.Conv2d]:
    """Return the convolutions of a network; empty unless they have most of its parameters."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    count = sum(layer.weight.numel() for layer in layers)
    return layers if 2 * count > sum(parameter.numel() for parameter in network.parameters()) else []


@torch.no_grad()
def prefer_channels_last(network: N) -> N:
    """Convert the convolutions to channels-last, unless the network's code needs contiguous activations.

    Code such as `x.view(len(x), -1)` does; a forward pass on two blank images detects it.
    """
    layers = convolutions(network)
    if not layers:
        return network
    was_training = network.training
    network.eval()
    for layer in layers:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        network.logits(torch.zeros(2, *network.architecture.image_shape))
    except RuntimeError as error:
        logger.debug(f"contiguous convolutions: {error}")
        for layer in layers:
            layer.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.train(was_training)
    return network


def bfloat16_is_faster(network: LayeredNetwork) -> bool:
    """Return whether training a network under autocast is faster on processors with native bfloat16.

    Grouped convolutions are slower in bfloat16. With frozen blocks, the answer is False except for the built-in CNN, so
    that training on cached features (float32) gives the same result.
    """
    if network.architecture.family == "cnn":
        return True
    layers = convolutions(network)
    return bool(layers) and network.frozen == 0 and all(layer.groups == 1 for layer in layers)
