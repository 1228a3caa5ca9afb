"""Find the boundaries between blocks in a traced graph.

*Heavy* nodes are parametrized nodes other than normalizations. The boundary between two successive heavy nodes is the
last position that exactly one tensor crosses. Heavy nodes without such a position between them share a block.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.networks.graph.naming import owner
from pipeline.networks.graph.trace import NAME_MODULES, TracedNetwork, UntraceableError

TRACED_VALUE = re.compile(r"Proxy\(\w+\)")  # in a message that a traced assertion holds
PROBE_BATCH = 2  # distinguishes the batch axis from axes of size 1
WEIGHTED_FUNCTIONS = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.multi_head_attention_forward}
NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class GraphLayout:
    """A traced graph with the positions where it can be split.

    Attributes:
        nodes: All nodes that depend on the input, in order, without the output.
        constants: For each of these nodes, its inputs that do not depend on the network's input, such as parameters.
        heavy: Positions of heavy nodes in `nodes`.
        crossing: For each position, the only node whose value is used after it; None if there are several.
    """

    nodes: tuple[fx.Node, ...]
    constants: dict[fx.Node, tuple[fx.Node, ...]]
    heavy: tuple[int, ...]
    crossing: tuple[fx.Node | None, ...]


@dataclass(frozen=True)
class Boundary:
    """The end of a block.

    Attributes:
        position: Position of the last node of the block.
        node: The node whose value crosses the boundary.
    """

    position: int
    node: fx.Node


def graph_layout(traced: TracedNetwork) -> GraphLayout:
    """Sort the nodes of a graph and find the positions that a single value crosses."""
    dependent = _dependent_nodes(traced)
    constants = {node: _constant_inputs(node, dependent) for node in dependent}
    heavy = [position for position, node in enumerate(dependent) if is_heavy(traced, node, constants[node])]
    crossing = _crossing_nodes(traced, dependent, constants)
    return GraphLayout(tuple(dependent), constants, tuple(heavy), tuple(crossing))


def _dependent_nodes(traced: TracedNetwork) -> list[fx.Node]:
    """Return the nodes that depend on the input; modules are included because they may be stateful."""
    dependent: dict[fx.Node, None] = {}
    for node in traced.graph.nodes:
        is_input = node.op in ("placeholder", "call_module")
        if node.op != "output" and (is_input or any(parent in dependent for parent in node.all_input_nodes)):
            dependent[node] = None
    return list(dependent)


def _constant_inputs(node: fx.Node, dependent: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """Return the direct and indirect inputs of a node that do not depend on the network's input, in order."""
    varying = set(dependent)
    needed: dict[fx.Node, None] = {}

    def visit(parent: fx.Node) -> None:
        if parent not in varying and parent not in needed:
            for ancestor in parent.all_input_nodes:
                visit(ancestor)
            needed[parent] = None

    for parent in node.all_input_nodes:
        visit(parent)
    return tuple(needed)


def is_heavy(traced: TracedNetwork, node: fx.Node, constants: Sequence[fx.Node]) -> bool:
    """Return whether a node is a parametrized module other than a normalization, or multiplies by a parameter."""
    if node.op == "call_module":
        return is_heavy_module(traced.attribute(str(node.target)))
    weighted = node.op == "call_function" and node.target in WEIGHTED_FUNCTIONS
    return weighted and bool(parameter_names(traced, constants))


def is_heavy_module(module: nn.Module) -> bool:
    """Return whether a module has parameters beyond those that scale and shift its channels."""
    if isinstance(module, NORMALIZATIONS):
        return False
    return any(parameter.ndim > 1 and parameter.numel() > max(parameter.shape) for parameter in module.parameters())


def parameter_names(traced: TracedNetwork, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """Return the qualified names of the parameters that nodes use directly, in order and without duplicates."""
    names: dict[str, None] = {}
    for node in nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        value, target = traced.attribute(str(node.target)), str(node.target)
        if isinstance(value, nn.Parameter):
            names[target] = None
        elif isinstance(value, nn.Module):
            names.update((f"{target}.{name}", None) for name, _ in value.named_parameters())
    return tuple(names)


def heavy_names(traced: TracedNetwork, layout: GraphLayout, positions: Iterable[int]) -> list[str]:
    """Return the qualified names of the modules of heavy nodes, in order."""
    names = []
    for node in (layout.nodes[position] for position in positions):
        parameters = parameter_names(traced, layout.constants[node])
        names.append(str(node.target) if node.op == "call_module" else owner(parameters[0]))
    return names


def _crossing_nodes(
    traced: TracedNetwork, nodes: Sequence[fx.Node], constants: dict[fx.Node, tuple[fx.Node, ...]]
) -> list[fx.Node | None]:
    """Return, for each position, the only node whose value is used after it; None if there are several."""
    positions = {node: position for position, node in enumerate(nodes)}
    ends = {node: max((positions.get(user, len(nodes)) for user in node.users), default=-1) for node in nodes}
    shared = _shared_spans(traced, nodes, constants)
    crossing: list[fx.Node | None] = []
    alive: list[fx.Node] = []
    for position, node in enumerate(nodes):
        alive = [earlier for earlier in (*alive, node) if ends[earlier] > position]
        in_span = any(first <= position < last for first, last in shared)
        crossing.append(alive[0] if len(alive) == 1 and not in_span else None)
    return crossing


def _shared_spans(
    traced: TracedNetwork, nodes: Sequence[fx.Node], constants: dict[fx.Node, tuple[fx.Node, ...]]
) -> list[tuple[int, int]]:
    """Return the first and last use of each parameter or buffer that several nodes share; they must share a block."""
    state = {id(tensor) for tensor in traced.module.state_dict(keep_vars=True).values()}
    spans: dict[int, tuple[int, int]] = {}
    for position, node in enumerate(nodes):
        for tensor in (tensor for part in (node, *constants[node]) for tensor in _tensors(traced, part)):
            if id(tensor) in state:
                spans[id(tensor)] = (spans.get(id(tensor), (position, 0))[0], position)
    return [span for span in spans.values() if span[0] < span[1]]


def _tensors(traced: TracedNetwork, node: fx.Node) -> list[Tensor]:
    if node.op not in ("call_module", "get_attr"):
        return []
    value = traced.attribute(str(node.target))
    return [*value.parameters(), *value.buffers()] if isinstance(value, nn.Module) else [value]


@dataclass(frozen=True)
class Measurement:
    """Shapes observed in one forward pass on blank images.

    Attributes:
        shapes: Shape per example of every value that may cross a boundary; values that may not are missing.
        output_shape: Shape per example of the network's output.
    """

    shapes: dict[fx.Node, tuple[int, ...]]
    output_shape: tuple[int, ...]


class _Probe(fx.Interpreter):
    """Runs a graph and records the values of the given nodes and their version counters (in-place changes)."""

    def __init__(self, traced: TracedNetwork, recorded: Iterable[fx.Node]):
        super().__init__(traced.module, graph=traced.graph)
        self.traced = traced
        self.recorded = set(recorded)
        self.values: dict[fx.Node, tuple[Tensor, int]] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run a node; record its value if requested and a floating-point tensor."""
        value: object = super().run_node(n)
        if n in self.recorded and isinstance(value, Tensor) and value.is_floating_point():
            self.values[n] = (value, value._version)
        return value

    def fetch_attr(self, target: str) -> object:
        """Return the parameter, buffer or constant of a node."""
        return self.traced.attribute(target)


def measure(traced: TracedNetwork, layout: GraphLayout, image_shape: tuple[int, int, int]) -> Measurement:
    """Run the network once in evaluation mode, and return the shapes of the values that may cross a boundary.

    A value may not cross if it is not a tensor with the batch as its first axis (but a tuple, a shape, a batch of
    windows), or if it is modified in place later, because caching would then store the modified values.

    Raises:
        UntraceableError: The network does not accept images of this shape (C, H, W), or returns no logits.
    """
    training = traced.module.training
    probe = _Probe(traced, (node for node in layout.crossing if node is not None))
    traced.module.eval()
    try:
        with torch.no_grad():
            output = probe.run(torch.zeros(PROBE_BATCH, *image_shape))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = TRACED_VALUE.sub("another value", reason).rstrip("!.")
        raise UntraceableError(
            f"the network does not accept images of shape {image_shape} (C, H, W): {reason}. "
            "Choose another image_size or number of channels."
        ) from error
    finally:
        traced.module.train(training)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != PROBE_BATCH:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UntraceableError(
            f"forward must return logits (B, K), but returned {shape} for a batch of {PROBE_BATCH}. Wrap it in a "
            "module that returns logits."
        )
    shapes = {
        node: tuple(value.shape[1:])
        for node, (value, version) in probe.values.items()
        if value.ndim > 1 and len(value) == PROBE_BATCH and value._version == version
    }
    return Measurement(shapes, tuple(output.shape[1:]))


def find_boundaries(
    traced: TracedNetwork, layout: GraphLayout, usable: Iterable[fx.Node], *, named: Sequence[str] = ()
) -> list[Boundary]:
    """Return the boundaries in order; the head follows the last one.

    Args:
        traced: The network.
        layout: Layout of its graph.
        usable: Nodes whose values may cross a boundary.
        named: Modules to use as blocks instead of the heavy nodes; the last heavy node still belongs to the head.

    Raises:
        UntraceableError: There is no boundary.
    """
    allowed = set(usable)
    chosen = _chosen_positions(layout, named)
    boundaries = []
    for lower, upper in pairwise(chosen):
        for position in range(upper - 1, lower - 1, -1):
            node = layout.crossing[position]
            if node is not None and node in allowed:
                boundaries.append(Boundary(position, node))
                break
    if not boundaries:
        raise UntraceableError(
            f"the network has {len(chosen)} layers with weights, but no position between two of them that "
            f"exactly one tensor crosses: there are no blocks to reuse. {NAME_MODULES}"
        )
    return boundaries


def _chosen_positions(layout: GraphLayout, named: Sequence[str]) -> list[int]:
    """Return the positions of the nodes to separate."""
    if not named:
        return list(layout.heavy)
    targets = {str(node.target): position for position, node in enumerate(layout.nodes) if node.op == "call_module"}
    unused = [name for name in named if name not in targets]
    if unused:
        raise UntraceableError(f"blocks: forward does not call the module {unused[0]}. Name modules that it calls.")
    positions = sorted({targets[name] for name in named})
    above = [position for position in layout.heavy if position > positions[-1]]
    return [*positions, above[-1]] if above else positions
