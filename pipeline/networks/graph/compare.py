"""Compare graphs: module by module between training and evaluation mode, and as a whole by digest."""

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import fx

from pipeline.networks.graph.naming import owner


def graph_digest(graph: fx.Graph) -> str:
    """Return a digest (32 hex digits) of a graph: operations, targets and arguments, but no tensor contents."""
    text = "\n".join(node_lines(list(graph.nodes)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differing_modules(left: fx.Graph, right: fx.Graph) -> set[str]:
    """Return the qualified names of the innermost modules whose nodes differ between two graphs.

    `meta["modules"]` of a node lists the modules that contain it.
    """
    graphs = _by_module(left), _by_module(right)
    names = graphs[0].keys() | graphs[1].keys()
    differing = {name for name in names if node_lines(graphs[0].get(name, [])) != node_lines(graphs[1].get(name, []))}
    enclosing = {name for inner in differing for name in _enclosing(inner)}
    return differing - enclosing


def _enclosing(name: str) -> list[str]:
    """Return the names of all enclosing modules; the network itself has the empty name."""
    names = []
    while name:
        name = owner(name)
        names.append(name)
    return names


def _by_module(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    parts: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        for name in node.meta["modules"]:
            parts.setdefault(name, []).append(node)
    return parts


def node_lines(nodes: Sequence[fx.Node]) -> list[str]:
    """Return one line per node, identical in every process; inputs are given as positions in `nodes`."""
    positions = {node: position for position, node in enumerate(nodes)}

    def reference(node: fx.Node) -> str:
        return f"%{positions.get(node, 'outside')}"

    return [
        f"{node.op} {target_name(node.target)} {fx.node.map_arg((node.args, node.kwargs), reference)!r}"
        for node in nodes
    ]


def target_name(target: Any) -> str:
    """Return a name for a node's target, identical in every process."""
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"
