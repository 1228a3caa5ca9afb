"""Build the network of an architecture record, which is untrusted."""

from __future__ import annotations

import torch

from pipeline.networks.graph.network import GraphNetwork, build_from_module
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.origins.source import ModelSource, check_size, seeded, tensor_bytes_of
from pipeline.networks.origins.timm_models import timm_source
from pipeline.networks.origins.torchvision_models import torchvision_source

LIBRARIES = {"torchvision": torchvision_source, "timm": timm_source}


def build_graph_network(
    architecture: GraphArchitecture, generator: torch.Generator, source: ModelSource | None = None
) -> GraphNetwork:
    """Return the network of a record, initialized as its library or the user's code does.

    Args:
        architecture: Of a library, it is built by name. Own code is never run because of a record.
        generator: Seeds the initialization.
        source: The user's own code, if the user has named it in this command.

    Raises:
        ValueError: Unknown name, too large, own code that is not given or has changed, or a network that traces
            differently from the record.
    """
    source = recorded_source(architecture, source)
    classes = len(architecture.classes)
    if source.family != "own":
        tensor_bytes_of(source, classes)
    with seeded(generator):
        module = source.build(classes)
    check_size(source.model, module)
    return build_from_module(module, architecture, generator)


def recorded_source(architecture: GraphArchitecture, source: ModelSource | None) -> ModelSource:
    """Return the source of a record's network: by name from a library, or the given one if it is the same code.

    Raises:
        ValueError: Unknown name, or own code that is not given or has changed.
    """
    if architecture.family != "own":
        return LIBRARIES[architecture.family](architecture.name)
    remedy = f"Pass model=own:PATH.py:{architecture.name.rpartition(':')[2]} with the file that the base was made of."
    if source is None or source.family != "own":
        raise ValueError(f"{architecture.model} is the user's own code, which a model's files never run. {remedy}")
    if source.source_digest != architecture.source_digest:
        raise ValueError(f"{source.model} is other code than the base was made of (its digest differs). {remedy}")
    if source.name.rpartition(":")[2] != architecture.name.rpartition(":")[2]:
        raise ValueError(f"{source.model} is another function than the base was made of. {remedy}")
    return source
