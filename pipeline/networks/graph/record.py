"""The architecture record of a network that was divided by its graph.

A record is part of a model's files and untrusted: it names a network in a library, and everything else in it is
compared with what the library builds. Reading a record never runs user code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.networks.graph.pooling import PoolingKind, pooled_width
from pipeline.networks.layered import Architecture, check_parameter_count

GraphFamily = Literal["torchvision", "timm", "own"]
GRAPH_FAMILIES: tuple[GraphFamily, ...] = ("torchvision", "timm", "own")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:\-]+$", max_length=300)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Dimension = Annotated[int, Field(ge=1, le=10_000_000)]


class BlockRecord(BaseModel):
    """One block.

    Attributes:
        name: Short module path.
        boundary: Graph node whose value is the output of the block.
        output_shape: Shape of the output per example.
        pooling: Pools the output to a vector for a linear head.
        parameters: Qualified names of the parameters, as in the library.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    boundary: Name
    output_shape: Annotated[tuple[Dimension, ...], Field(min_length=1, max_length=8)]
    pooling: PoolingKind
    parameters: Annotated[tuple[Name, ...], Field(max_length=10_000)]

    @property
    def pooled_width(self) -> int:
        """Number of values per image after pooling."""
        return pooled_width(self.pooling, self.output_shape)


class GraphArchitecture(Architecture):
    """A network from a library or the user's code, divided into blocks.

    Attributes:
        family: Origin of the network.
        name: Name in its library, or `FILE.py:FUNCTION`.
        library_version: Version of the library; empty for the user's code.
        source_digest: Digest of the file with the user's code; empty for a library.
        blocks: All blocks of the network, from the input.
        depth: Number of blocks in use.
        head: `published` (everything after the last block) or `linear` (pooling and one linear layer).
        head_parameters: Qualified names of the published head's parameters.
        leaves: Modules that the user named as blocks.
        graph_digest: Digest of the traced graph.
    """

    family: GraphFamily
    name: Name
    library_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+\-]*$", max_length=100)]
    source_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    blocks: Annotated[tuple[BlockRecord, ...], Field(min_length=1, max_length=2_000)]
    depth: Annotated[int, Field(ge=1)]
    head: Literal["published", "linear"]
    head_parameters: Annotated[tuple[Name, ...], Field(max_length=1_000)]
    leaves: Annotated[tuple[Name, ...], Field(max_length=2_000)] = ()
    graph_digest: Digest

    @model_validator(mode="after")
    def _consistent(self) -> GraphArchitecture:
        if self.depth > len(self.blocks) or (self.head == "published" and self.depth < len(self.blocks)):
            raise ValueError(f"depth {self.depth} with a {self.head} head: the network has {len(self.blocks)} blocks")
        if self.head == "linear":
            check_parameter_count(self.blocks[self.depth - 1].pooled_width * len(self.classes))
        if (self.family == "own") != bool(self.source_digest):
            raise ValueError("own networks, and only they, have a source_digest")
        return self

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks in use, from the input."""
        return tuple(block.name for block in self.blocks[: self.depth])

    @property
    def model(self) -> str:
        """Value of the parameter `model` for this network."""
        return f"{self.family}:{self.name}"

    def target(self, classes: tuple[str, ...], depth: int) -> GraphArchitecture:
        """Return the architecture of the first `depth` blocks with a linear head; unchanged if it already matches."""
        if classes == self.classes and depth == self.depth:
            return self
        return self.model_copy(update={"classes": classes, "depth": depth, "head": "linear"})
