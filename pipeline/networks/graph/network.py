"""Convert traced networks to a `LayeredNetwork`: describe the network once, then rebuild it from its record."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.convolutions import prefer_channels_last
from pipeline.networks.graph.assemble import Segment, head_module, segment_module, segment_parameters, segments
from pipeline.networks.graph.compare import graph_digest
from pipeline.networks.graph.cuts import (
    Boundary,
    GraphLayout,
    find_boundaries,
    graph_layout,
    heavy_names,
    measure,
)
from pipeline.networks.graph.naming import block_names
from pipeline.networks.graph.pooling import build_pooling, pooling_kind
from pipeline.networks.graph.record import BlockRecord, GraphArchitecture, GraphFamily
from pipeline.networks.graph.trace import TracedNetwork, UntraceableError, trace_network
from pipeline.networks.initialization import xavier_linear
from pipeline.networks.layered import LayeredNetwork


class GraphNetwork(LayeredNetwork):
    """A `LayeredNetwork` whose blocks come from the graph of another network."""

    architecture: GraphArchitecture

    def pooled(self, values: Tensor, depth: int) -> Tensor:
        """Return activations at depth `depth` (at least 1) as one vector per image (B, D), pooled as for a head."""
        pool = build_pooling(self.architecture.blocks[depth - 1].pooling)
        return values.flatten(1) if pool is None else pool(values)


@dataclass(frozen=True)
class Origin:
    """The fields of a record that tracing does not provide; see `GraphArchitecture`."""

    family: GraphFamily
    name: str
    library_version: str
    source_digest: str
    preprocessing: Preprocessing
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True)
class DividedNetwork:
    """A network divided into segments.

    Attributes:
        traced: The network with its graph.
        parts: Segments of the blocks, and last of the head.
        blocks: Records of the blocks.
        outputs: Number of logits.
        unused: Parameters that `forward` does not use.
    """

    traced: TracedNetwork
    parts: tuple[Segment, ...]
    blocks: tuple[BlockRecord, ...]
    outputs: int
    unused: tuple[str, ...]

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Qualified names of the parameters above the last block."""
        return segment_parameters(self.traced, self.parts[-1])


def divide(module: nn.Module, image_shape: tuple[int, int, int], named: Sequence[str] = ()) -> DividedNetwork:
    """Divide a network into blocks; runs it once on blank images.

    Args:
        module: Maps normalized images (B, C, H, W) to logits (B, K).
        image_shape: (C, H, W).
        named: Modules to use as blocks; by default, they are determined automatically.

    Raises:
        UntraceableError: The network cannot be traced, has no boundary, or does not accept the images.
    """
    traced = trace_network(module, named)
    layout = graph_layout(traced)
    measurement = measure(traced, layout, image_shape)
    boundaries = find_boundaries(traced, layout, measurement.shapes, named=named)
    parts = segments(traced, layout, boundaries)
    records = [
        BlockRecord(
            name=name,
            boundary=boundary.node.name,
            output_shape=measurement.shapes[boundary.node],
            pooling=pooling_kind(traced, layout, boundary, shape=measurement.shapes[boundary.node]),
            parameters=segment_parameters(traced, part),
        )
        for name, boundary, part in zip(
            _names(traced, layout, boundaries, named=named), boundaries, parts, strict=False
        )
    ]
    used = {name for part in parts for name in segment_parameters(traced, part)}
    unused = tuple(name for name, _ in module.named_parameters() if name not in used)
    return DividedNetwork(traced, tuple(parts), tuple(records), measurement.output_shape[0], unused)


def _names(
    traced: TracedNetwork, layout: GraphLayout, boundaries: Sequence[Boundary], *, named: Sequence[str]
) -> list[str]:
    edges = [0, *(boundary.position + 1 for boundary in boundaries), len(layout.nodes)]
    ranges = list(pairwise(edges))
    if named:
        calls = {str(node.target): position for position, node in enumerate(layout.nodes) if node.op == "call_module"}
        inside = [[name for name in named if low <= calls[name] < high] for low, high in ranges[:-1]]
        if all(inside):
            return [names[0] for names in inside]
    heavy = [
        heavy_names(traced, layout, (position for position in layout.heavy if low <= position < high))
        for low, high in ranges
    ]
    return block_names(heavy)


def describe(divided: DividedNetwork, origin: Origin, classes: tuple[str, ...]) -> GraphArchitecture:
    """Return the architecture record of a complete network with its published head."""
    return GraphArchitecture(
        classes=classes,
        family=origin.family,
        name=origin.name,
        library_version=origin.library_version,
        source_digest=origin.source_digest,
        preprocessing=origin.preprocessing,
        blocks=divided.blocks,
        depth=len(divided.blocks),
        head="published",
        head_parameters=divided.head_parameters,
        leaves=origin.leaves,
        graph_digest=graph_digest(divided.traced.graph),
    )


def build_from_module(module: nn.Module, architecture: GraphArchitecture, generator: torch.Generator) -> GraphNetwork:
    """Build the network of a record from a module, sharing its weights.

    Args:
        module: A new module from the library or the user's code.
        architecture: The record; untrusted, so all of it is compared with the module.
        generator: Initializes a linear head.

    Raises:
        ValueError: The traced module differs from the record.
    """
    try:
        traced = trace_network(module, architecture.leaves)
    except UntraceableError as error:
        raise ValueError(_mismatch_message(architecture, str(error))) from error
    if graph_digest(traced.graph) != architecture.graph_digest:
        raise ValueError(_mismatch_message(architecture, "its graph differs"))
    layout = graph_layout(traced)
    parts = segments(traced, layout, _recorded_boundaries(architecture, layout))
    expected = [*(block.parameters for block in architecture.blocks), architecture.head_parameters]
    if [segment_parameters(traced, part) for part in parts] != expected:
        raise ValueError(_mismatch_message(architecture, "the parameters of its blocks differ"))
    blocks = [segment_module(traced, part) for part in parts[: architecture.depth]]
    if architecture.head == "published":
        return prefer_channels_last(GraphNetwork(architecture, blocks, head_module(traced, parts[-1])))
    top = architecture.blocks[architecture.depth - 1]
    head = xavier_linear(top.pooled_width, len(architecture.classes), generator)
    return prefer_channels_last(GraphNetwork(architecture, blocks, head, pool=build_pooling(top.pooling)))


def _recorded_boundaries(architecture: GraphArchitecture, layout: GraphLayout) -> list[Boundary]:
    """Return the boundaries of a record; exactly one value must cross each."""
    places = {node.name: Boundary(position, node) for position, node in enumerate(layout.crossing) if node is not None}
    names = [block.boundary for block in architecture.blocks]
    boundaries = [places[name] for name in names if name in places]
    positions = [boundary.position for boundary in boundaries]
    if len(boundaries) < len(names) or positions != sorted(set(positions)):
        raise ValueError(
            _mismatch_message(architecture, "a boundary is not a position that exactly one tensor crosses")
        )
    return boundaries


def _mismatch_message(architecture: GraphArchitecture, difference: str) -> str:
    origin = f"{architecture.family} {architecture.library_version}".strip()
    return (
        f"{architecture.model} does not trace as it did with {origin}: {difference}. Install that version, or import "
        "the network again."
    )
