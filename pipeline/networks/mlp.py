"""The multi-layer perceptron: equal fully connected blocks, Xavier initialisation, ReLU."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.networks.layered import LayeredNetwork, MLPArchitecture


def build_mlp(architecture: MLPArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a fresh MLP whose weights are drawn from `generator`, from the input upwards."""
    incoming = math.prod(architecture.image_shape)
    blocks = []
    for index in range(architecture.hidden_layers):
        blocks.append(dense_block(incoming, architecture, generator, flatten=index == 0))
        incoming = architecture.width
    return LayeredNetwork(architecture, blocks, xavier_linear(incoming, len(architecture.classes), generator))


def dense_block(
    incoming: int, architecture: MLPArchitecture, generator: torch.Generator, *, flatten: bool
) -> nn.Sequential:
    """Return linear, batch norm (optional), ReLU, dropout (optional); `flatten` takes images to rows first."""
    parts: list[nn.Module] = [nn.Flatten()] if flatten else []
    parts.append(xavier_linear(incoming, architecture.width, generator))
    if architecture.batch_norm:
        parts.append(nn.BatchNorm1d(architecture.width))
    parts.append(nn.ReLU())
    if architecture.dropout:
        parts.append(nn.Dropout(architecture.dropout))
    return nn.Sequential(*parts)


def xavier_linear(incoming: int, outgoing: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights and zero bias.

    Source: Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """
    layer = nn.utils.skip_init(nn.Linear, incoming, outgoing)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    assert isinstance(layer, nn.Linear)
    return layer
