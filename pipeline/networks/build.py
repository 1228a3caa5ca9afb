"""Build a network of either family from its architecture; read architectures from JSON; digests."""

from __future__ import annotations

import hashlib
import json
import math

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.errors import EarlierReleaseError
from pipeline.networks.layered import (
    AnyArchitecture,
    CNNArchitecture,
    ConvolutionLayer,
    LayeredNetwork,
    MLPArchitecture,
)
from pipeline.runtime import tensor_bytes

MAX_JSON_LENGTH = 1 << 20
_ADAPTER: TypeAdapter[MLPArchitecture | CNNArchitecture] = TypeAdapter(AnyArchitecture)


def build_network(architecture: MLPArchitecture | CNNArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a network on the CPU, randomly initialized from the input upwards."""
    if isinstance(architecture, MLPArchitecture):
        return build_mlp(architecture, generator)
    return build_cnn(architecture, generator)


def build_mlp(architecture: MLPArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return an MLP: equal dense blocks and a head."""
    width = architecture.width
    sizes = [math.prod(architecture.image_shape)] + [width] * architecture.hidden_layers
    blocks = [
        dense_block(
            xavier_linear(sizes[index], width, generator),
            flatten=index == 0,
            batch_norm=architecture.batch_norm,
            dropout=architecture.dropout,
        )
        for index in range(architecture.hidden_layers)
    ]
    return LayeredNetwork(architecture, blocks, xavier_linear(width, len(architecture.classes), generator))


def build_cnn(architecture: CNNArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a CNN: convolution blocks (dropout after the last one), a dense block and a head."""
    in_channels = architecture.image_shape[0]
    blocks = []
    for index, layer in enumerate(architecture.convolutions, 1):
        dropout = architecture.dropout if index == len(architecture.convolutions) else 0.0
        convolution = kaiming_convolution(in_channels, layer, generator)
        blocks.append(
            convolution_block(convolution, pool=layer.pool, batch_norm=architecture.batch_norm, dropout=dropout)
        )
        in_channels = layer.channels
    linear = xavier_linear(math.prod(architecture.feature_shape), architecture.dense_width, generator)
    blocks.append(dense_block(linear, flatten=True, batch_norm=False, dropout=architecture.dense_dropout))
    head = xavier_linear(architecture.dense_width, len(architecture.classes), generator)
    return LayeredNetwork(architecture, blocks, head)


def dense_block(linear: nn.Linear, *, flatten: bool, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Return flatten (optional), linear, batch norm (optional), ReLU, dropout (optional)."""
    return _sequential(
        nn.Flatten() if flatten else None,
        linear,
        nn.BatchNorm1d(linear.out_features) if batch_norm else None,
        nn.ReLU(),
        nn.Dropout(dropout) if dropout else None,
    )


def convolution_block(convolution: nn.Conv2d, *, pool: bool, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Return convolution, max-pooling (optional), batch norm (optional), ReLU, channel dropout (optional)."""
    return _sequential(
        convolution,
        nn.MaxPool2d(2) if pool else None,  # before ReLU: same result, a quarter of the work
        nn.BatchNorm2d(convolution.out_channels) if batch_norm else None,
        nn.ReLU(),
        nn.Dropout2d(dropout) if dropout else None,
    )


def _sequential(*modules: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(*(module for module in modules if module is not None))


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


def architecture_from_json(text: str) -> MLPArchitecture | CNNArchitecture:
    """Parse and validate an architecture; `text` is untrusted.

    Raises:
        EarlierReleaseError: It has the format of an earlier release.
        ValueError: Invalid JSON, a missing, unknown or duplicate key, a wrong type, or a size above the limits.
    """
    if len(text) > MAX_JSON_LENGTH:
        raise ValueError(f"invalid architecture: {len(text)} characters (limit: {MAX_JSON_LENGTH})")
    try:
        architecture = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        if _is_version_1(text):
            raise EarlierReleaseError("invalid architecture: written by an earlier release") from None
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"invalid architecture: {key}: {first['msg']}") from None
    keys = json.loads(text, object_pairs_hook=_unique_keys)  # pydantic silently takes the last of duplicates
    if "version" not in keys:
        raise ValueError("invalid architecture: version: Field required")
    return architecture


def _is_version_1(text: str) -> bool:
    """Return whether a text is an architecture as written before it had a version."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(record, dict) and {"family", "image_shape", "classes"} <= record.keys() and "version" not in record
    )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("invalid architecture: duplicate key")
    return dict(pairs)


def architecture_digest(architecture: MLPArchitecture | CNNArchitecture) -> str:
    """Return the digest (32 hex digits) of the architecture's canonical JSON."""
    return hashlib.sha256(architecture.model_dump_json().encode()).hexdigest()[:32]


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Return a digest (32 hex digits) over the names, dtypes, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:32]
