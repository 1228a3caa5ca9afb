"""Function calls whose arguments depend on the mode, such as `F.dropout(x, training=self.training)`.

In the `forward` of the network itself, no smaller module can be kept as a leaf. Each such call is replaced by a module
that chooses its arguments at run time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from pipeline.networks.graph.compare import node_lines


@dataclass(frozen=True)
class _Slot:
    """Placeholder for an input tensor in the arguments of a call."""

    position: int


class ModeDependentCall(nn.Module):
    """Calls a function with the arguments of the current mode.

    Args:
        function: The function, such as `F.dropout`.
        evaluation: Positional and keyword arguments in evaluation mode, with slots for tensors.
        training: The arguments in training mode.
    """

    def __init__(self, function: Callable[..., Any], evaluation: Any, training: Any):
        super().__init__()
        self.function, self.evaluation_arguments, self.training_arguments = function, evaluation, training

    def forward(self, *inputs: Tensor) -> Any:
        """Return the result of the call."""
        arguments = self.training_arguments if self.training else self.evaluation_arguments
        args, kwargs = fx.node.map_aggregate(
            arguments, lambda value: inputs[value.position] if isinstance(value, _Slot) else value
        )
        return self.function(*args, **kwargs)


def merge_modes(evaluation: fx.Graph, training: fx.Graph) -> dict[str, nn.Module] | None:
    """Make the evaluation graph valid in both modes, if the graphs differ in constant arguments of functions only.

    Returns:
        The modules that the new nodes call, by name; None (and an unchanged graph) if the graphs differ otherwise.
    """
    pairs = list(zip(evaluation.nodes, training.nodes, strict=False))
    lines = node_lines(list(evaluation.nodes)), node_lines(list(training.nodes))
    if len(lines[0]) != len(lines[1]):
        return None
    differing = [pair for pair, left, right in zip(pairs, *lines, strict=True) if left != right]
    counterparts = {right: left for left, right in pairs}
    if not all(_differ_in_constants(left, right, counterparts) for left, right in differing):
        return None
    modules: dict[str, nn.Module] = {}
    for number, (left, right) in enumerate(differing):
        name = f"_mode_dependent_{number}_{left.target.__name__}"
        modules[name] = ModeDependentCall(left.target, _with_slots(left), _with_slots(right))
        with evaluation.inserting_before(left):
            call = evaluation.call_module(name, tuple(left.all_input_nodes))
        call.meta = dict(left.meta)
        left.replace_all_uses_with(call)
        evaluation.erase_node(left)
    return modules


def _differ_in_constants(left: fx.Node, right: fx.Node, counterparts: dict[fx.Node, fx.Node]) -> bool:
    same_call = left.op == right.op == "call_function" and left.target is right.target
    return same_call and left.all_input_nodes == [counterparts[node] for node in right.all_input_nodes]


def _with_slots(node: fx.Node) -> Any:
    positions = {parent: position for position, parent in enumerate(node.all_input_nodes)}

    def slot(parent: fx.Node) -> Any:
        return _Slot(positions[parent])

    return fx.node.map_arg((node.args, dict(node.kwargs)), slot)
