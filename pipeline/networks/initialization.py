"""Randomly initialized layers, for the networks built here and for the new heads of imported ones."""

import torch
from torch import nn

from pipeline.networks.layered import ConvolutionLayer


def xavier_linear(in_features: int, out_features: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights and zero bias.

    Source: Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    assert isinstance(layer, nn.Linear)
    return layer


def kaiming_convolution(in_channels: int, layer: ConvolutionLayer, generator: torch.Generator) -> nn.Conv2d:
    """Return a convolution in channels-last format with Kaiming-uniform weights and zero bias."""
    convolution = nn.utils.skip_init(
        nn.Conv2d, in_channels, layer.channels, layer.kernel, stride=layer.stride, padding=layer.padding
    )
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(convolution.bias)
    return convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
