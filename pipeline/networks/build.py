"""Build networks from architecture records; parse records; compute digests."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.errors import EarlierReleaseError
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.initialization import kaiming_convolution, xavier_linear
from pipeline.networks.layered import (
    CNNArchitecture,
    LayeredNetwork,
    MLPArchitecture,
)
from pipeline.runtime import tensor_bytes

if TYPE_CHECKING:
    from pipeline.networks.origins.source import ModelSource

MAX_JSON_LENGTH = 1 << 20
AnyArchitecture = Annotated[MLPArchitecture | CNNArchitecture | GraphArchitecture, Field(discriminator="family")]
_ADAPTER: TypeAdapter[MLPArchitecture | CNNArchitecture | GraphArchitecture] = TypeAdapter(AnyArchitecture)


def build_network(
    architecture: MLPArchitecture | CNNArchitecture | GraphArchitecture,
    generator: torch.Generator,
    source: ModelSource | None = None,
) -> LayeredNetwork:
    """Return a randomly initialized network on the CPU.

    Args:
        architecture: Record of the network; untrusted.
        generator: Source of randomness; blocks are initialized from the input on.
        source: The user's code, for networks that it defines.

    Raises:
        ValueError: For networks of a library or the user's code only; see `build_graph_network`.
    """
    if isinstance(architecture, MLPArchitecture):
        return build_mlp(architecture, generator)
    if isinstance(architecture, CNNArchitecture):
        return build_cnn(architecture, generator)
    from pipeline.networks.origins.rebuild import build_graph_network  # imports torchvision

    return build_graph_network(architecture, generator, source)


def build_mlp(architecture: MLPArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return an MLP: dense blocks of equal width and a head."""
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
        nn.MaxPool2d(2) if pool else None,  # before ReLU: same result at a quarter of the cost
        nn.BatchNorm2d(convolution.out_channels) if batch_norm else None,
        nn.ReLU(),
        nn.Dropout2d(dropout) if dropout else None,
    )


def _sequential(*modules: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(*(module for module in modules if module is not None))


def architecture_from_json(text: str) -> MLPArchitecture | CNNArchitecture | GraphArchitecture:
    """Parse and validate an architecture; `text` is untrusted.

    Raises:
        EarlierReleaseError: The record was written by an earlier release.
        ValueError: Invalid JSON, a missing, unknown or duplicate key, a wrong type, or a size that exceeds a limit.
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
    keys = json.loads(text, object_pairs_hook=_unique_keys)  # pydantic silently keeps the last of duplicate keys
    if "version" not in keys:
        raise ValueError("invalid architecture: version: Field required")
    return architecture


def _is_version_1(text: str) -> bool:
    """Return whether the text is an architecture from before the format had a version."""
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


def architecture_digest(architecture: MLPArchitecture | CNNArchitecture | GraphArchitecture) -> str:
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
