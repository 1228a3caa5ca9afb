"""The interface of an origin of networks: a function that builds a network, and its metadata."""

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

# Checked before memory is allocated. The largest network of torchvision (regnet_y_128gf) has 645 million parameters.
MAX_GRAPH_PARAMETERS = 700_000_000


@dataclass(frozen=True)
class ModelSource:
    """Builds one network.

    Attributes:
        family: `torchvision`, `timm` or `own`.
        name: Name in its library, or `FILE.py:FUNCTION`.
        build: Returns the randomly initialized network for a number of classes (None: the default).
        library_version: Version of the library; empty for the user's code.
        preprocessing: Preprocessing of the published weights, if there are any.
        categories: Class names of the published weights, if known.
        published_weights: Downloads the published weights as a state dict.
        license: License of the published weights, if the library provides it.
        rename: Maps the name of a tensor in a published weights file to its name in the network; None if the network
            does not use it.
        source_text: Content of the file with the user's code.
        source_digest: SHA-256 of the file.
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
        """Value of the parameter `model` for this network."""
        return f"{self.family}:{self.name}"


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed PyTorch's global generator, which libraries use for initialization; restore its state on exit."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_on_meta(source: ModelSource, classes: int | None) -> nn.Module:
    """Build a library's network with its parameters on the meta device, which takes no memory.

    Raises:
        ValueError: Too many parameters, or the network cannot be built on the meta device.
    """
    assert source.family != "own", "own code is not built on the meta device: it may do anything"
    for without_memory in (_everything_on_meta_device, _parameters_on_meta_device):
        try:
            with without_memory():
                module = source.build(classes)
        except (NotImplementedError, RuntimeError) as error:  # its constructor computes with tensor values
            reason = error
            continue
        check_size(source.model, module)
        return module
    raise ValueError(f"the size of {source.model} cannot be determined: {first_line(reason)}. Choose another network.")


def _everything_on_meta_device() -> AbstractContextManager[object]:
    return torch.device("meta")


@contextmanager
def _parameters_on_meta_device() -> Iterator[None]:
    """Move every new parameter to the meta device before it is initialized; other tensors stay on the CPU."""

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
