"""Compare graphs: by module, between training and evaluation mode, and as a whole, by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import fx

from pipeline.networks.graph.naming import owner


def graph_digest(graph: fx.Graph) -> str:
    """Return a digest (32 hex digits) of a graph: operations, targets and arguments, but no tensor's content."""
    text = "\n".join(described(list(graph.nodes)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differing_modules(left: fx.Graph, right: fx.Graph) -> set[str]:
    """Return the qualified names of the smallest modules whose parts of two graphs differ.

    The nodes of a traced graph name the modules that they lie in, under `meta["modules"]`.
    """
    graphs = _by_module(left), _by_module(right)
    names = graphs[0].keys() | graphs[1].keys()
    differing = {name for name in names if described(graphs[0].get(name, [])) != described(graphs[1].get(name, []))}
    enclosing = {name for inner in differing for name in _enclosing(inner)}
    return differing - enclosing


def _enclosing(name: str) -> list[str]:
    """Return the names of all modules around a module; the network itself has the empty name."""
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


def described(nodes: Sequence[fx.Node]) -> list[str]:
    """Return one line per node that is the same in every process, with the positions of its inputs among `nodes`."""
    positions = {node: position for position, node in enumerate(nodes)}

    def reference(node: fx.Node) -> str:
        return f"%{positions.get(node, 'outside')}"

    return [
        f"{node.op} {target_name(node.target)} {fx.node.map_arg((node.args, node.kwargs), reference)!r}"
        for node in nodes
    ]


def target_name(target: Any) -> str:
    """Return a name of a node's target that is the same in every process."""
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"
