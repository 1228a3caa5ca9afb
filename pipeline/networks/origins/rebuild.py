"""Rebuild the network of an untrusted architecture record."""

import torch

from pipeline.networks.graph.network import GraphNetwork, build_from_module
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.origins.source import (
    MAX_GRAPH_PARAMETERS,
    ModelSource,
    build_on_meta,
    check_size,
    seeded,
)
from pipeline.networks.origins.timm_models import timm_source
from pipeline.networks.origins.torchvision_models import torchvision_source

FLOAT_BYTES = 4
LIBRARIES = {"torchvision": torchvision_source, "timm": timm_source}


def build_graph_network(
    architecture: GraphArchitecture, generator: torch.Generator, source: ModelSource | None = None
) -> GraphNetwork:
    """Return the network of a record, initialized as its library or the user's code does.

    Args:
        architecture: The record. A record never causes the user's code to run.
        generator: Seeds the initialization.
        source: The user's code, if it was named in this command.

    Raises:
        ValueError: Unknown name, too many parameters, user code that is missing or has changed, or a traced network
            that differs from the record.
    """
    source = recorded_source(architecture, source)
    classes = len(architecture.classes)
    if source.family != "own":
        build_on_meta(source, classes)  # checks the size
    with seeded(generator):
        module = source.build(classes)
    check_size(source.model, module)
    return build_from_module(module, architecture, generator)


def weights_file_bounds(architecture: GraphArchitecture, source: ModelSource | None = None) -> tuple[int, int]:
    """Return the minimum and maximum size in bytes of a record's weights, without allocating memory.

    Raises:
        ValueError: As for `build_graph_network`, if detectable without building the network.
    """
    source = recorded_source(architecture, source)
    if source.family == "own":
        return 0, FLOAT_BYTES * MAX_GRAPH_PARAMETERS
    classes = len(architecture.classes)
    module = build_on_meta(source, classes)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    sizes = {name: p.numel() * p.element_size() for name, p in module.named_parameters()}
    used = [name for block in architecture.blocks[: architecture.depth] for name in block.parameters]
    if architecture.head == "published":
        used += architecture.head_parameters
    if unknown := sorted(set(used) - sizes.keys()):
        raise ValueError(f"{architecture.model} has no parameter {unknown[0]}")
    new_head = FLOAT_BYTES * classes * (architecture.blocks[architecture.depth - 1].pooled_width + 1)
    return sum(sizes[name] for name in used), whole + (new_head if architecture.head == "linear" else 0)


def recorded_source(architecture: GraphArchitecture, source: ModelSource | None) -> ModelSource:
    """Return the source of a record's network: a library, or `source` if its code is the same.

    Raises:
        ValueError: Unknown name, or user code that is missing or has changed.
    """
    if architecture.family != "own":
        return LIBRARIES[architecture.family](architecture.name)
    function = architecture.name.rpartition(":")[2]
    remedy = f"Name the file that defined it again: model=own:PATH.py:{function} (predict and export: --code)."
    if source is None or source.family != "own":
        raise ValueError(f"{architecture.model} is user code, which loading a model never runs. {remedy}")
    if source.source_digest != architecture.source_digest:
        raise ValueError(f"{source.model} has changed since the base was created (its digest differs). {remedy}")
    if source.name.rpartition(":")[2] != architecture.name.rpartition(":")[2]:
        raise ValueError(f"{source.model} is not the function that defined the base. {remedy}")
    return source
