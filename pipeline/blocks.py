"""`python -m pipeline blocks`: list the blocks of a network: number, name, output shape, parameters, MACs."""

from __future__ import annotations

from pipeline.console import print_table
from pipeline.errors import invalid
from pipeline.networks.graph.network import GraphNetwork
from pipeline.networks.macs import forward_macs
from pipeline.networks.origins.load import FORMS, ModelRequest, is_graph_model, load_model
from pipeline.runtime import generator

HEADINGS = ("block", "name", "output", "parameters", "MACs", "head input")
POOLING_NAMES = {
    "none": "as is",
    "mean_of_maps": "average over map",
    "mean_of_positions": "average over positions",
    "class_token": "class token",
}


def print_blocks(model: str, image_size: int | None, modules: str) -> None:
    """Print one row per block and one for the head; nothing is downloaded.

    Args:
        model: See `ModelRequest`.
        image_size: Side of the images in pixels; None for that of the published weights.
        modules: Modules to use as blocks, separated by commas; if empty, they are determined automatically.

    Raises:
        UserInputError: Unknown network, or one that cannot be cut into blocks.
    """
    if not is_graph_model(model):
        raise invalid("model", model, f"must be {FORMS}.")
    size = None if image_size is None else (image_size, image_size)
    named = tuple(name.strip() for name in modules.split(",") if name.strip())
    loaded = load_model(ModelRequest(model, image_size=size, blocks=named), generator(0, "blocks"))
    print_table(f"{model}, images of {_shape(loaded.network.architecture.image_shape)}", HEADINGS, rows(loaded.network))


def rows(network: GraphNetwork) -> list[tuple[str, ...]]:
    """Return the rows of the table as text; the last one is the head."""
    architecture = network.architecture
    macs = [f"{count:,}" for count in forward_macs(network)]
    parameters = [f"{sum(p.numel() for p in part.parameters()):,}" for part in (*network.blocks, network.head)]
    table = [
        (str(number), block.name, _shape(block.output_shape), count, operations, POOLING_NAMES[block.pooling])
        for number, (block, count, operations) in enumerate(zip(architecture.blocks, parameters, macs, strict=False), 1)
    ]
    return [*table, ("head", "", str(len(architecture.classes)), parameters[-1], macs[-1], "")]


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
