"""From command-line parameters to an architecture."""

from __future__ import annotations

from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, MLPArchitecture
from pipeline.params import FamilyParams
from pipeline.params.family import parse_sizes


def architecture_from_params(
    params: FamilyParams, image_shape: tuple[int, int, int], classes: tuple[int, ...]
) -> MLPArchitecture | CNNArchitecture:
    """Return the architecture for images of shape (C, H, W) and the given class labels.

    Raises:
        ValueError: Too many parameters, or too many blocks for the image size (pydantic's ValidationError is one).
    """
    data = {"image_shape": image_shape, "classes": classes}
    regularization = {"batch_norm": params.batch_norm, "dropout": params.dropout}
    if params.model == "mlp":
        size = {"hidden_layers": params.hidden_layers, "width": params.width}
        return MLPArchitecture.model_validate(data | regularization | size)
    dense = {"dense_width": params.dense_width, "dense_dropout": params.dense_dropout}
    convolutions = {"convolutions": convolution_layers(params)}
    return CNNArchitecture.model_validate(data | regularization | convolutions | dense)


def convolution_layers(params: FamilyParams) -> tuple[ConvolutionLayer, ...]:
    """Return the convolution layers; a single kernel size or stride applies to all of them."""
    assert params.channels and params.kernels and params.strides
    channels = parse_sizes(params.channels, 1024)
    count = len(channels)
    sizes = parse_sizes(params.kernels, 15), parse_sizes(params.strides, 8)
    kernels, strides = (values * (count // len(values)) for values in sizes)
    pools = [params.pool == "each" or (params.pool == "last" and index == count - 1) for index in range(count)]
    return tuple(
        ConvolutionLayer(channels=channel, kernel=kernel, stride=stride, pool=pool)
        for channel, kernel, stride, pool in zip(channels, kernels, strides, pools, strict=True)
    )
