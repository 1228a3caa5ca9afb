"""The convolutional network: a few convolution blocks, one dense block."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, LayeredNetwork
from pipeline.networks.mlp import xavier_linear


def build_cnn(architecture: CNNArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a fresh CNN whose weights are drawn from `generator`, from the input upwards."""
    incoming = architecture.image_shape[0]
    blocks = []
    for index, layer in enumerate(architecture.convolutions, 1):
        last = index == len(architecture.convolutions)
        blocks.append(convolution_block(incoming, layer, architecture, generator, last=last))
        incoming = layer.channels
    blocks.append(dense_block(architecture, generator))
    return LayeredNetwork(
        architecture, blocks, xavier_linear(architecture.dense_width, len(architecture.classes), generator)
    )


def convolution_block(
    incoming: int, layer: ConvolutionLayer, architecture: CNNArchitecture, generator: torch.Generator, *, last: bool
) -> nn.Sequential:
    """Return convolution, pooling, batch norm, ReLU; dropout of whole channels after the last one.

    Pooling comes before ReLU: the maximum of rectified values is the rectified maximum, at a quarter of the work.
    """
    convolution = nn.utils.skip_init(nn.Conv2d, incoming, layer.channels, layer.kernel, stride=layer.stride)
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(convolution.bias)
    parts: list[nn.Module] = [convolution.to(memory_format=torch.channels_last)]  # type: ignore[call-overload]
    if layer.pool:
        parts.append(nn.MaxPool2d(2))
    if architecture.batch_norm:
        parts.append(nn.BatchNorm2d(layer.channels))
    parts.append(nn.ReLU())
    if last and architecture.dropout:
        parts.append(nn.Dropout2d(architecture.dropout))
    return nn.Sequential(*parts)


def dense_block(architecture: CNNArchitecture, generator: torch.Generator) -> nn.Sequential:
    """Return the block that flattens the features and maps them to `dense_width` values."""
    linear = xavier_linear(math.prod(architecture.feature_shape), architecture.dense_width, generator)
    parts: list[nn.Module] = [nn.Flatten(), linear, nn.ReLU()]
    if architecture.dense_dropout:
        parts.append(nn.Dropout(architecture.dense_dropout))
    return nn.Sequential(*parts)
