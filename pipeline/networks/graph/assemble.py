"""Split a traced network at its boundaries into one `GraphModule` per block, and one for the head."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from pipeline.networks.graph.cuts import Boundary, GraphLayout, parameter_names
from pipeline.networks.graph.trace import TracedNetwork


@dataclass(frozen=True)
class Segment:
    """The nodes of a block, or of the head.

    Attributes:
        source: The node whose value is the input of the segment.
        nodes: The nodes in order, preceded by the input-independent nodes that they need.
        result: The node whose value is the output.
    """

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    result: fx.Node


def segments(traced: TracedNetwork, layout: GraphLayout, boundaries: Sequence[Boundary]) -> list[Segment]:
    """Return the segments in order; the last one is the head."""
    ends = [*(boundary.position for boundary in boundaries), len(layout.nodes) - 1]
    results = [*(boundary.node for boundary in boundaries), traced.graph_output]
    source, start, parts = traced.graph_input, 0, []
    for end, result in zip(ends, results, strict=True):
        nodes = layout.nodes[start : end + 1]
        needed = {constant: None for node in nodes for constant in layout.constants[node]}
        parts.append(Segment(source, (*needed, *(node for node in nodes if node.op != "placeholder")), result))
        source, start = result, end + 1
    return parts


def segment_module(traced: TracedNetwork, segment: Segment) -> nn.Module:
    """Return a module that computes a segment.

    It shares modules and parameters with the traced network, under the same qualified names.
    """
    graph = fx.Graph()
    copies = {segment.source: graph.placeholder("values")}
    for node in segment.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[segment.result])
    targets = [str(node.target) for node in segment.nodes if node.op in ("call_module", "get_attr")]
    module = fx.GraphModule({target: traced.attribute(target) for target in targets}, graph)
    _make_transient(traced, module, targets)
    return module


def head_module(traced: TracedNetwork, segment: Segment) -> nn.Module:
    """Return the module of a head: the layer itself if it is a single linear layer."""
    single = segment.nodes[0]
    if len(segment.nodes) == 1 and single.op == "call_module" and single.args == (segment.source,):
        layer = traced.attribute(str(single.target))
        if type(layer) is nn.Linear:
            return layer
    return segment_module(traced, segment)


def _make_transient(traced: TracedNetwork, module: fx.GraphModule, targets: Sequence[str]) -> None:
    """Exclude tensors from the state dict that are not in that of the traced network."""
    persistent = traced.module.state_dict(keep_vars=True).keys()
    for target in targets:
        if isinstance(traced.attribute(target), Tensor) and target not in persistent:
            path, _, name = target.rpartition(".")
            module.get_submodule(path)._non_persistent_buffers_set.add(name)


def segment_parameters(traced: TracedNetwork, segment: Segment) -> tuple[str, ...]:
    """Return the qualified names of a segment's parameters, in order."""
    return parameter_names(traced, segment.nodes)
