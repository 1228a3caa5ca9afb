"""From parameters to the description of a network."""

from __future__ import annotations

from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, MLPArchitecture
from pipeline.params import FamilyParams
from pipeline.params.family import parse_sizes


def describe_network(
    params: FamilyParams, image_shape: tuple[int, int, int], classes: tuple[int, ...]
) -> MLPArchitecture | CNNArchitecture:
    """Return the description of the network that some parameters ask for.

    Args:
        params: Of a stage that builds a network of either family.
        image_shape: (C, H, W).
        classes: What it tells apart.

    Raises:
        ValueError: It would be too large, or too deep for the images (pydantic's ValidationError is one).
    """
    if params.model == "mlp":
        assert params.hidden_layers is not None and params.width is not None
        return MLPArchitecture(
            image_shape=image_shape,
            classes=classes,
            hidden_layers=params.hidden_layers,
            width=params.width,
            batch_norm=params.batch_norm,
            dropout=params.dropout,
        )
    assert params.dense_width is not None and params.dense_dropout is not None
    return CNNArchitecture(
        image_shape=image_shape,
        classes=classes,
        convolutions=convolutions_of(params),
        dense_width=params.dense_width,
        batch_norm=params.batch_norm,
        dropout=params.dropout,
        dense_dropout=params.dense_dropout,
    )


def convolutions_of(params: FamilyParams) -> tuple[ConvolutionLayer, ...]:
    """Return the convolution blocks that the parameters ask for."""
    assert params.channels and params.kernels and params.strides
    channels = parse_sizes(params.channels, 1024)
    count = len(channels)
    kernels, strides = (
        sizes if len(sizes) == count else sizes * count
        for sizes in (parse_sizes(params.kernels, 15), parse_sizes(params.strides, 8))
    )
    pools = [params.pool == "each" or (params.pool == "last" and index == count - 1) for index in range(count)]
    return tuple(
        ConvolutionLayer(channels=channel, kernel=kernel, stride=stride, pool=pool)
        for channel, kernel, stride, pool in zip(channels, kernels, strides, pools, strict=True)
    )
