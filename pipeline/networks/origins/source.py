"""What an origin of networks offers: a function that builds one, and what its library knows about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.graph.record import GraphFamily
from pipeline.redaction import first_line

# Before anything is allocated. The largest network of torchvision (regnet_y_128gf) has 645 million parameters.
MAX_GRAPH_PARAMETERS = 700_000_000


@dataclass(frozen=True)
class ModelSource:
    """Builds one network.

    Attributes:
        family: `torchvision`, `timm` or `own`.
        name: In its library, or `FILE.py:FUNCTION`.
        build: Returns the network, randomly initialized; takes the number of classes, None for the default.
        library_version: Empty for own code.
        preprocessing: Of the published weights, if there are any.
        categories: Class names of the published weights, if known.
        published_weights: Downloads them, as a state dict.
        license: Of the published weights, as far as the library says.
        rename: Turns the name of a tensor in a published weights file into the one that the network uses, or into
            None if the network does not use the tensor.
        source_text: The file with the user's code.
        source_digest: Its SHA-256.
    """

    family: GraphFamily
    name: str
    build: Callable[[int | None], nn.Module]
    library_version: str = ""
    preprocessing: Preprocessing | None = None
    categories: tuple[str, ...] = ()
    published_weights: Callable[[], Mapping[str, Tensor]] | None = None
    license: str = ""
    rename: Callable[[str], str | None] = field(default=lambda name: name)
    source_text: str = ""
    source_digest: str = ""

    @property
    def model(self) -> str:
        """The parameter `model` for this network."""
        return f"{self.family}:{self.name}"


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed PyTorch's global generator, which libraries initialize networks with; restore its state at the end."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def outline(source: ModelSource, classes: int | None) -> nn.Module:
    """Return a library's network whose parameters have shapes but no content and take no memory.

    Raises:
        ValueError: More parameters than the limit, or the library cannot build it so.
    """
    assert source.family != "own", "own code is not built on the meta device: it may do anything"
    for without_memory in (_everything_on_meta_device, _parameters_on_meta_device):
        try:
            with without_memory():
                module = source.build(classes)
        except (NotImplementedError, RuntimeError) as error:  # it computes with tensors while it builds
            reason = error
            continue
        check_size(source.model, module)
        return module
    raise ValueError(f"the size of {source.model} cannot be determined: {first_line(reason)}. Choose another network.")


def _everything_on_meta_device() -> AbstractContextManager[object]:
    return torch.device("meta")


@contextmanager
def _parameters_on_meta_device() -> Iterator[None]:
    """Move every new parameter to the meta device before it is initialized; other tensors keep their content."""

    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        return None if parameter is None else nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(cast(Any, move))
    try:
        yield
    finally:
        handle.remove()


def check_size(model: str, module: nn.Module) -> None:
    """Raise ValueError if a network has more parameters than the limit."""
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > MAX_GRAPH_PARAMETERS:
        raise ValueError(f"{model} has {count} parameters (limit: {MAX_GRAPH_PARAMETERS})")
