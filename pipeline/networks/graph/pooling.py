"""Pool the activations at a boundary to one vector per image, the input of a linear head."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor, fx, nn

from pipeline.networks.graph.cuts import Boundary, GraphLayout
from pipeline.networks.graph.trace import TracedNetwork

PoolingKind = Literal["none", "mean_of_maps", "mean_of_positions", "class_token"]
ATTENTION_NAMES = ("attention", "softmax")


class MeanOfMaps(nn.Module):
    """Global average pooling of channels-first activations: (B, C, ...) to (B, C)."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the mean over all positions."""
        return values.flatten(2).mean(2)


class MeanOfPositions(nn.Module):
    """Global average pooling of channels-last activations: (B, H, W, C) or tokens (B, T, D) to (B, C)."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the mean over all positions."""
        return values.flatten(1, -2).mean(1)


class ClassToken(nn.Module):
    """The first token: (B, T, D) to (B, D)."""

    def forward(self, values: Tensor) -> Tensor:
        """Return token 0."""
        return values[:, 0]


def build_pooling(kind: PoolingKind) -> nn.Module | None:
    """Return the pooling module of a kind; None if the activations are already vectors."""
    modules: dict[str, type[nn.Module]] = {
        "mean_of_maps": MeanOfMaps,
        "mean_of_positions": MeanOfPositions,
        "class_token": ClassToken,
    }
    return modules[kind]() if kind in modules else None


def pooled_width(kind: PoolingKind, shape: Sequence[int]) -> int:
    """Return the number of values per image after pooling activations of a shape without the batch axis."""
    if kind == "none":
        return math.prod(shape)
    return shape[0] if kind == "mean_of_maps" else shape[-1]


def pooling_kind(
    traced: TracedNetwork, layout: GraphLayout, boundary: Boundary, *, shape: Sequence[int]
) -> PoolingKind:
    """Choose the pooling at a boundary from the next heavy layer.

    Convolutions read channels-first, linear layers and attention channels-last activations. Tokens are pooled to the
    class token if the classifier of the network reads it and an attention layer precedes the boundary, else to their
    mean.
    """
    if len(shape) < 2:
        return "none"
    below, above = layout.nodes[: boundary.position + 1], layout.nodes[boundary.position + 1 :]
    if len(shape) == 2 and any(map(_reads_first_token, above)) and any(_attends(traced, node) for node in below):
        return "class_token"
    weight = _first_weight(traced, layout, above)
    if weight is None or weight.ndim > 2:
        return "mean_of_maps"
    reads_maps = len(shape) == 3 and weight.shape[1] == shape[0] != shape[-1]  # a linear layer on permuted maps
    return "mean_of_maps" if reads_maps else "mean_of_positions"


def _first_weight(traced: TracedNetwork, layout: GraphLayout, nodes: Iterable[fx.Node]) -> Tensor | None:
    """Return the first weight of a convolution, or of a linear layer (out, in), that the nodes use."""
    for node in nodes:
        owners = [node] if node.op == "call_module" else layout.constants[node]
        for value in (traced.attribute(str(part.target)) for part in owners if part.op in ("call_module", "get_attr")):
            if isinstance(value, nn.Module) and (weight := _layer_weight(value)) is not None:
                return weight
            if isinstance(value, nn.Parameter) and node.op == "call_function" and value.ndim > 1 and _is_product(node):
                return value
    return None


def _is_product(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") in ("linear", "conv1d", "conv2d", "conv3d")


def _layer_weight(module: nn.Module) -> Tensor | None:
    """Return the weight of the first convolution, linear or attention layer in a module."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
            return part.weight
        if isinstance(part, nn.MultiheadAttention):
            return part.out_proj.weight
    return None


def _reads_first_token(node: fx.Node) -> bool:
    """Return whether a node is `x[:, 0]`."""
    index: Any = node.args[1] if len(node.args) > 1 else None
    is_index = node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
    return is_index and isinstance(index, tuple) and index[:2] == (slice(None), 0) and len(index) == 2


def _attends(traced: TracedNetwork, node: fx.Node) -> bool:
    """Return whether a node mixes tokens by attention."""
    name = str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_module":
        name = " ".join(type(part).__name__ for part in traced.attribute(name).modules())
    return any(word in name.lower() for word in ATTENTION_NAMES)
