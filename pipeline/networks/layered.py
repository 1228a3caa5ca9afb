"""A network as a sequence of blocks and a head, so that blocks can be copied, frozen and cached.

Blocks are numbered from the input. Activations at depth 0 are the normalized pixels, at depth d the output of
block d; the head maps the last activations to logits. Training can start at any depth, on cached features of
frozen blocks.

Shapes: B examples, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pipeline.networks.graph.record import GraphArchitecture

PIXEL_MAXIMUM = 255.0

# The architecture in a model's files is untrusted: these limits are checked before anything is allocated.
MAX_PARAMETERS = 50_000_000
Size = Annotated[int, Field(ge=1, le=16_384)]
DropoutProbability = Annotated[float, Field(ge=0, lt=1)]
ClassName = Annotated[str, Field(min_length=1, max_length=255)]

VERSION: Literal[2] = 2  # of architecture files; version 1 had an image shape and class indices


class Architecture(BaseModel):
    """Fields of all families; round-trips through JSON.

    Attributes:
        version: Version of the file format.
        preprocessing: Preprocessing of the images.
        classes: Class names, in the order of the logits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[2] = VERSION
    preprocessing: Preprocessing
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=10_000)]

    @field_validator("classes")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("duplicate class")
        if not all(name.isprintable() for name in value):
            raise ValueError("unprintable class name")
        return value

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the input."""
        return self.preprocessing.image_shape


def block_numbers(depth: int) -> tuple[str, ...]:
    """Return the names of the blocks of a built-in network: `1` to the number of blocks."""
    return tuple(str(number) for number in range(1, depth + 1))


class MLPArchitecture(Architecture):
    """Fully connected blocks of equal width: linear, optional batch norm, ReLU, optional dropout."""

    family: Literal["mlp"] = "mlp"
    hidden_layers: Annotated[int, Field(ge=1, le=100)] = 5
    width: Size = 100
    batch_norm: bool = False
    dropout: DropoutProbability = 0.0

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return self.hidden_layers

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks, from the input."""
        return block_numbers(self.depth)

    @model_validator(mode="after")
    def _check_parameter_count(self) -> MLPArchitecture:
        channels, height, width = self.image_shape
        hidden = channels * height * width * self.width + (self.hidden_layers - 1) * self.width**2
        check_parameter_count(hidden + self.width * len(self.classes))
        return self


class ConvolutionLayer(BaseModel):
    """One convolution block: convolution, optional 2x2 max-pooling, optional batch norm, ReLU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Annotated[int, Field(ge=1, le=1024)]
    kernel: Annotated[int, Field(ge=1, le=15)]
    stride: Annotated[int, Field(ge=1, le=8)] = 1
    pool: bool = False
    padding: Annotated[int, Field(ge=0, le=7)] = 0


class CNNArchitecture(Architecture):
    """Convolution blocks, then one dense block; dropout after the last convolution and the dense layer."""

    family: Literal["cnn"] = "cnn"
    convolutions: Annotated[tuple[ConvolutionLayer, ...], Field(min_length=1, max_length=20)]
    dense_width: Size = 128
    batch_norm: bool = True
    dropout: DropoutProbability = 0.25
    dense_dropout: DropoutProbability = 0.25

    @property
    def depth(self) -> int:
        """Number of convolution blocks plus the dense block."""
        return len(self.convolutions) + 1

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks, from the input."""
        return block_numbers(self.depth)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the dense block's input.

        Raises:
            ValueError: The images are too small for the convolutions.
        """
        channels, height, width = self.image_shape
        for number, layer in enumerate(self.convolutions, 1):
            channels = layer.channels
            height, width = ((side + 2 * layer.padding - layer.kernel) // layer.stride + 1 for side in (height, width))
            if layer.pool:
                height, width = height // 2, width // 2
            if min(height, width) < 1:
                raise ValueError(f"images of {self.image_shape} are too small for convolution block {number}")
        return channels, height, width

    @model_validator(mode="after")
    def _check_parameter_count(self) -> CNNArchitecture:
        channels, height, width = self.feature_shape
        inputs = (self.image_shape[0], *(layer.channels for layer in self.convolutions))
        kernels = sum(
            incoming * layer.channels * layer.kernel**2
            for incoming, layer in zip(inputs, self.convolutions, strict=False)
        )
        check_parameter_count(kernels + (channels * height * width + len(self.classes)) * self.dense_width)
        return self


def check_parameter_count(parameters: int) -> None:
    """Raise ValueError if there are too many parameters."""
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"{parameters} parameters exceed the limit of {MAX_PARAMETERS}")


def normalization(preprocessing: Preprocessing) -> tuple[Tensor | None, Tensor | None]:
    """Return factor and offset, float32 (C, 1, 1), such that pixels * factor + offset is (pixels / 255 - mean) / std.

    Both are None if there is neither mean nor standard deviation.
    """
    if preprocessing.mean is None and preprocessing.std is None:
        return None, None
    mean, std = (
        preprocessing.mean or (0.0,) * preprocessing.channels,
        preprocessing.std or (1.0,) * preprocessing.channels,
    )
    factors = [1 / (PIXEL_MAXIMUM * deviation) for deviation in std]
    offsets = [-average / deviation for average, deviation in zip(mean, std, strict=True)]
    return torch.tensor(factors).view(-1, 1, 1), torch.tensor(offsets).view(-1, 1, 1)


class LayeredNetwork(nn.Module):
    """Blocks and a head; maps pixels in [0, 255] to logits.

    Args:
        architecture: Record of the network.
        blocks: Blocks, from the input.
        head: Maps pooled activations to logits: one linear layer, or the head of a published network.
        pool: Pools the activations of the last block to one vector per image; None if they are already vectors.
    """

    factor: Tensor | None
    offset: Tensor | None

    def __init__(
        self,
        architecture: MLPArchitecture | CNNArchitecture | GraphArchitecture,
        blocks: Iterable[nn.Module],
        head: nn.Module,
        *,
        pool: nn.Module | None = None,
    ):
        super().__init__()
        self.architecture = architecture
        self.blocks = nn.ModuleList(blocks)
        self.pool = pool
        self.head = head
        self.trained = frozenset(range(len(self.blocks)))
        factor, offset = normalization(architecture.preprocessing)
        self.register_buffer("factor", factor, persistent=False)  # part of the architecture, not of the weights
        self.register_buffer("offset", offset, persistent=False)

    @property
    def frozen(self) -> int:
        """Number of frozen blocks below the lowest trained one; they run without autograd."""
        return min(self.trained, default=len(self.blocks))

    @property
    def trained_parts(self) -> list[nn.Module]:
        """The trained blocks and the head."""
        return [*(self.blocks[index] for index in sorted(self.trained)), self.head]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def scale(self, pixels: Tensor) -> Tensor:
        """Normalize pixels (B, C, H, W) of any dtype from [0, 255] to float32 (pixels / 255 - mean) / std."""
        values = pixels.float()
        if self.factor is None or self.offset is None:
            return values / PIXEL_MAXIMUM if values is pixels else values.div_(PIXEL_MAXIMUM)
        if values is pixels:
            return values * self.factor + self.offset
        return values.mul_(self.factor).add_(self.offset)  # in place: .float() has made a copy

    def run_blocks(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Map activations at depth `start` to depth `stop`."""
        for block in self.blocks[start:stop]:
            values = block(values)
        return values

    def head_inputs(self, values: Tensor, start: int = 0) -> Tensor:
        """Return the input of the head for activations at depth `start`; frozen blocks run without autograd."""
        if start < self.frozen:
            with torch.no_grad():
                values = self.run_blocks(values, start, self.frozen)
            start = self.frozen
        values = self.run_blocks(values, start, len(self.blocks))
        return values if self.pool is None or values.ndim == 2 else self.pool(values)  # cached ones may be pooled

    def pooled(self, values: Tensor, depth: int) -> Tensor:
        """Return activations at depth `depth` as one vector per image (B, D): maps are averaged, vectors unchanged."""
        return values.flatten(2).mean(2) if values.ndim > 2 else values

    def logits(self, values: Tensor, start: int = 0) -> Tensor:
        """Return logits (B, K) for activations at depth `start`."""
        logits: Tensor = self.head(self.head_inputs(values, start))
        return logits

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) for pixels (B, C, H, W) in [0, 255]."""
        return self.logits(self.scale(pixels))

    def freeze(self, count: int) -> None:
        """Freeze the first `count` blocks."""
        assert 0 <= count <= len(self.blocks), f"cannot freeze {count} of {len(self.blocks)} blocks"
        self.train_only(range(count, len(self.blocks)))

    def train_only(self, indices: Iterable[int]) -> None:
        """Train the given blocks (0-based) and the head; freeze the others: no gradients, always in eval mode."""
        self.trained = frozenset(indices)
        assert self.trained <= set(range(len(self.blocks))), f"blocks {sorted(self.trained)} of {len(self.blocks)}"
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index in self.trained)
        self.train(self.training)

    def train(self, mode: bool = True) -> LayeredNetwork:
        """Set the mode; frozen blocks stay in evaluation mode, so that their batch-norm statistics do not change."""
        super().train(mode)
        for index, block in enumerate(self.blocks):
            if index not in self.trained:
                block.eval()
        return self


class Classifier(nn.Module):
    """The exported graph: float32 pixels (B, C, H, W) in [0, 255] to softmax probabilities (B, K)."""

    def __init__(self, network: LayeredNetwork):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities that sum to 1 over the classes."""
        return torch.softmax(self.network(pixels), dim=1)
