"""Build an architecture from command-line parameters; default convolutions depend on the image size."""

import math
from typing import TypeVar

from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, MLPArchitecture
from pipeline.params import FamilyParams
from pipeline.params.family import parse_sizes

CONVOLUTION_FIELDS = ("conv_channels", "kernels", "strides", "padding", "pool")
DIGIT_SIDES = range(20, 40)  # sides of gray images that get the network tuned on MNIST (docs/defaults.md)
PHOTO_CHANNELS = (32, 64, 128, 128)
PHOTO_SIDE = 32  # larger images are downsampled to about this size by strides

F = TypeVar("F", bound=FamilyParams)


def architecture_from_params(
    params: FamilyParams, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> MLPArchitecture | CNNArchitecture:
    """Return the architecture for images with this preprocessing and the given class names.

    Raises:
        ValueError: Too many parameters, or too many blocks for the image size (also as pydantic's ValidationError).
    """
    data = {"preprocessing": preprocessing, "classes": classes}
    regularization = {"batch_norm": params.batch_norm, "dropout": params.dropout}
    if params.model == "mlp":
        size = {"hidden_layers": params.hidden_layers, "width": params.width}
        return MLPArchitecture.model_validate(data | regularization | size)
    dense = {"dense_width": params.dense_width, "dense_dropout": params.dense_dropout}
    convolutions = {"convolutions": convolution_layers(with_convolutions(params, preprocessing.image_shape))}
    return CNNArchitecture.model_validate(data | regularization | convolutions | dense)


def with_convolutions(params: F, image_shape: tuple[int, int, int]) -> F:
    """Resolve every `auto` of the convolutions for images of shape (C, H, W).

    Gray images of 20 to 39 pixels: 16,32 channels, kernels 5,3, strides 2,1, no padding, one pooling layer. All others:
    up to four 3x3 convolutions with padding and pooling, and strides that downsample larger images.
    """
    if params.model != "cnn":
        return params
    channels, *sides = image_shape
    is_digit = channels == 1 and all(side in DIGIT_SIDES for side in sides)
    blocks = max(1, min(len(PHOTO_CHANNELS), int(math.log2(min(sides))) - 1))
    chosen = params.conv_channels if params.conv_channels != "auto" else None
    conv_channels = chosen or ("16,32" if is_digit else ",".join(map(str, PHOTO_CHANNELS[:blocks])))
    count = len(conv_channels.split(","))
    halvings = max(0, int(math.log2(min(sides) / PHOTO_SIDE))) if min(sides) >= PHOTO_SIDE else 0
    strided = 1 if is_digit else min(halvings, count)
    values = {
        "conv_channels": conv_channels,
        "kernels": ",".join(["5", *["3"] * (count - 1)]) if is_digit else "3",
        "strides": ",".join(["2"] * strided + ["1"] * (count - strided)),
        "padding": "valid" if is_digit else "same",
        "pool": "last" if is_digit else "each",
    }
    return params.model_copy(update={name: v for name, v in values.items() if getattr(params, name) == "auto"})


def convolution_layers(params: FamilyParams) -> tuple[ConvolutionLayer, ...]:
    """Return the convolution layers; a single kernel size or stride applies to all of them.

    Raises:
        ValueError: The number of kernel sizes or strides is wrong.
    """
    assert params.conv_channels and params.kernels and params.strides
    channels = parse_sizes(params.conv_channels, 1024)
    count = len(channels)
    sizes = parse_sizes(params.kernels, 15), parse_sizes(params.strides, 8)
    for name, values in zip(("kernels", "strides"), sizes, strict=True):
        if len(values) not in (1, count):
            raise ValueError(f"{name}: expected 1 or {count} values (conv_channels={params.conv_channels})")
    kernels, strides = (values * (count // len(values)) for values in sizes)
    pools = [params.pool == "each" or (params.pool == "last" and index == count - 1) for index in range(count)]
    return tuple(
        ConvolutionLayer(
            channels=channel, kernel=kernel, stride=stride, pool=pool, padding=kernel // 2 * (params.padding == "same")
        )
        for channel, kernel, stride, pool in zip(channels, kernels, strides, pools, strict=True)
    )
