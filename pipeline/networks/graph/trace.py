"""Trace any network with `torch.fx` into one graph that is valid in training and evaluation mode.

Tracing runs `forward` once with placeholders for tensors. Of Python code that branches on `self.training`, only one
branch gets into the graph. So both modes are traced, and the innermost module whose graphs differ is kept as a leaf: a
single node that calls the module, which then reads the mode at run time.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from pipeline.errors import suggest
from pipeline.networks.graph.compare import differing_modules
from pipeline.networks.graph.modes import merge_modes
from pipeline.redaction import first_line

PREFIX = "module."  # of qualified names inside `_OneInput`
MAX_ROUNDS = 50
NAME_MODULES = "Or name the modules to use as blocks: blocks=layer1,layer2,..."


class UntraceableError(ValueError):
    """The network cannot be divided into blocks; the message says why and what to do."""


@dataclass(frozen=True)
class TracedNetwork:
    """A network with its graph.

    Attributes:
        module: The network; the graph refers to its modules, parameters and buffers by qualified name.
        graph: Its graph, with one placeholder and one output.
        constants: Tensors that `forward` creates and mode-dependent calls, by their name in the graph.
    """

    module: nn.Module
    graph: fx.Graph
    constants: dict[str, object]

    def attribute(self, target: str) -> Any:
        """Return the module, parameter, buffer or constant that a node refers to."""
        if target in self.constants:
            return self.constants[target]
        value: Any = self.module
        for part in target.split("."):
            value = getattr(value, part)
        return value

    @property
    def graph_input(self) -> fx.Node:
        """The node of the network's input."""
        node: fx.Node = next(node for node in self.graph.nodes if node.op == "placeholder")
        return node

    @property
    def graph_output(self) -> fx.Node:
        """The node of the network's output."""
        output: fx.Node = self.graph.output_node().args[0]  # type: ignore[assignment]
        return output


class _OneInput(nn.Module):
    """Calls a module with its first argument only, so that the graph contains the defaults of optional arguments."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        """Call the module with one argument."""
        return self.module(x)


class _Tracer(fx.Tracer):
    """Keeps the given modules as leaves; reads buffers as graph nodes, so that their values do not become constants."""

    def __init__(self, leaves: frozenset[str]):
        super().__init__(autowrap_functions=_untraced_functions())
        self.leaves = leaves
        self.proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name.removeprefix(PREFIX) in self.leaves

    def location(self) -> str:
        """Return the qualified name of the module that is being traced; empty for the network itself."""
        names = [str(name) for name, _ in self.module_stack.values()]
        return names[-1].removeprefix(PREFIX[:-1]).removeprefix(".") if names else ""


def trace_network(module: nn.Module, leaves: Iterable[str] = ()) -> TracedNetwork:
    """Trace a network in both modes; the modes of its modules are restored.

    Args:
        module: Maps images (B, C, H, W) to logits (B, K).
        leaves: Qualified names of further modules whose `forward` is not traced.

    Raises:
        UntraceableError: Unknown names, several inputs, an output other than a single tensor, or control flow that
            depends on data.
    """
    check_one_input(module)
    names = {name for name, _ in module.named_modules() if name}
    for name in leaves:
        if name not in names:
            raise UntraceableError(f"blocks: the network has no module {name}. {suggest(name, names)}".strip())
    all_leaves = default_leaves(module) | set(leaves)
    with _restored_modes(module):
        for _ in range(MAX_ROUNDS):
            module.eval()
            evaluation = _trace(module, frozenset(all_leaves))
            new_leaves = _make_mode_independent(module, evaluation, frozenset(all_leaves))
            if not new_leaves:
                return evaluation
            all_leaves |= new_leaves
    raise UntraceableError(f"the graph still depends on the mode after {MAX_ROUNDS} rounds. {NAME_MODULES}")


def _make_mode_independent(module: nn.Module, evaluation: TracedNetwork, leaves: frozenset[str]) -> set[str]:
    """Return the innermost modules that must become leaves, so that one graph is valid in both modes.

    Function calls in the `forward` of the network itself are replaced in the graph; see `modes`.
    """
    module.train()
    try:
        training = _trace(module, leaves)
    except _TracingError as error:
        if not error.location:
            raise
        return {error.location}
    differing = differing_modules(evaluation.graph, training.graph)
    if "" not in differing:
        return differing
    calls = merge_modes(evaluation.graph, training.graph)
    if calls is None:
        raise UntraceableError(
            "forward of the network itself differs between training and evaluation mode. Move what depends on "
            "self.training into a submodule, and return the logits only, also while training."
        )
    evaluation.constants.update(calls)
    return set()


def default_leaves(module: nn.Module) -> set[str]:
    """Return the qualified names of the modules that are leaves by default.

    These are PyTorch's layers, modules with direct parameters whose children have none, and modules that a library
    declares as untraceable.
    """
    untraced = _untraced_modules()
    return {
        name
        for name, part in module.named_modules()
        if name and (_is_pytorch_layer(part) or _holds_only_own_parameters(part) or isinstance(part, untraced))
    }


def _is_pytorch_layer(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.nn.") and not isinstance(part, nn.Sequential)


def _holds_only_own_parameters(part: nn.Module) -> bool:
    has_parameters = next(part.parameters(recurse=False), None) is not None
    return has_parameters and all(next(child.parameters(), None) is None for child in part.children())


def _untraced_modules() -> tuple[type[nn.Module], ...]:
    """Return the module classes to keep as leaves, from the imported libraries."""
    classes: list[type[nn.Module]] = []
    if "torchvision.ops" in sys.modules:
        classes.append(sys.modules["torchvision.ops"].StochasticDepth)
    if "timm.layers" in sys.modules:
        layers = sys.modules["timm.layers"]
        classes += [layers.DropPath, *layers.get_notrace_modules()]
    return tuple(classes)


def _untraced_functions() -> tuple[Callable[..., Any], ...]:
    """Return the functions that timm declares as untraceable; empty if timm has not been imported."""
    return tuple(sys.modules["timm.layers"].get_notrace_functions()) if "timm.layers" in sys.modules else ()


class _TracingError(UntraceableError):
    """Tracing failed inside the module `location`."""

    def __init__(self, message: str, location: str):
        super().__init__(message)
        self.location = location


def _trace(module: nn.Module, leaves: frozenset[str]) -> TracedNetwork:
    root, tracer = _OneInput(module), _Tracer(leaves)
    try:
        graph = tracer.trace(root)
    except Exception as error:  # the network's code may raise anything when run on placeholders
        where = tracer.location()
        place = f"module {where} ({type(module.get_submodule(where)).__name__})" if where else "forward"
        raise _TracingError(
            f"{place} cannot be traced{_line_of(error)}: {type(error).__name__}: {first_line(error)}. Its control flow "
            f"must not depend on tensors. {NAME_MODULES} (a named module may contain anything that maps one tensor to "
            "one tensor).",
            where,
        ) from error
    _check_output(graph.output_node().args[0])
    return _without_prefix(root, module, graph)


def _line_of(error: Exception) -> str:
    """Return the file and line of the network's code at which tracing failed."""
    libraries = (f"{os.sep}torch{os.sep}", __file__)
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if not any(library in frame.filename for library in libraries)]
    return f" ({os.path.basename(inner[-1].filename)}, line {inner[-1].lineno})" if inner else ""


def _without_prefix(root: _OneInput, module: nn.Module, graph: fx.Graph) -> TracedNetwork:
    """Make the graph refer to `module` instead of `root`, where the tracer stored the constants."""
    constants: dict[str, object] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack", {})
        names = [str(name).removeprefix(PREFIX[:-1]).removeprefix(".") for name, _ in stack.values()]
        node.meta = {"modules": tuple(dict.fromkeys(["", *names]))}
        if node.op not in ("call_module", "get_attr"):
            continue
        if node.target.startswith(PREFIX):
            node.target = node.target.removeprefix(PREFIX)
        else:
            constants[node.target] = getattr(root, node.target)
    return TracedNetwork(module, graph, constants)


def check_one_input(module: nn.Module) -> None:
    """Raise UntraceableError unless `forward` can be called with one positional argument."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    required += [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    takes_any = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    if len(required) > 1 or not (positional or takes_any):
        raise UntraceableError(
            f"forward must take one input, the images, but needs {', '.join(required) or 'none'}. "
            "Wrap it in a module whose forward takes the images only."
        )


def _check_output(value: object) -> None:
    if isinstance(value, fx.Node):
        return
    kind = "dictionary" if isinstance(value, dict) else type(value).__name__
    raise UntraceableError(
        f"forward must return one tensor, the logits (B, K), but returns a {kind}. "
        "Wrap it in a module whose forward returns the logits only."
    )


@contextmanager
def _restored_modes(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
