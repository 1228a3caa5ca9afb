"""Build a network from the first blocks of a base: frozen, fine-tuned or randomly initialized.

The stages `transfer`, `finetune_cnn` and `scratch_cnn` translate their parameters into a `Reuse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.networks.build import AnyArchitecture, build_network
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.layered import LayeredNetwork, MLPArchitecture

if TYPE_CHECKING:
    from pipeline.networks.origins.source import ModelSource


@dataclass(frozen=True)
class Reuse:
    """How a network reuses its base; blocks are numbered from the input.

    Attributes:
        copied: Number of blocks copied from the base.
        frozen: Number of frozen blocks below the lowest trained one.
        depth: Number of blocks of the new network; those after the copied ones are randomly initialized.
        keeps_head: Whether to copy the head too, to continue training on the classes of the base.
        train_blocks: Numbers (from 1) of all trained blocks; if empty, all blocks after the frozen ones are trained.
    """

    copied: int
    frozen: int
    depth: int
    keeps_head: bool = False
    train_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert 0 <= self.frozen <= self.copied <= self.depth and self.depth >= 1, self
        trained = self.trained
        assert self.frozen == min(trained, default=self.depth) and set(range(self.copied, self.depth)) <= trained, self

    @property
    def trained(self) -> frozenset[int]:
        """Trained blocks (0-based), including all randomly initialized ones."""
        above = range(self.frozen, self.depth)
        return frozenset(number - 1 for number in self.train_blocks) if self.train_blocks else frozenset(above)

    def __str__(self) -> str:
        """Return the counts as one line."""
        fine_tuned = sum(index < self.copied for index in self.trained)
        frozen, initialized = self.copied - fine_tuned, self.depth - self.copied
        only = f" (blocks {', '.join(map(str, self.train_blocks))} trained)" if self.train_blocks else ""
        head = "fine-tuned" if self.keeps_head else "randomly initialized"
        return (
            f"blocks: {frozen} frozen, {fine_tuned} fine-tuned{only}, {initialized} randomly initialized; head: {head}"
        )


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors of a new network and its base.

    Attributes:
        matched: Tensors copied from the base.
        fresh: Tensors of the new network only, randomly initialized.
        dropped: Tensors of the base only, not used.
    """

    matched: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report as one line."""
        return (
            f"loaded {len(self.matched)} tensors from the base; {len(self.fresh)} initialized randomly; "
            f"{len(self.dropped)} not used"
        )


def target_architecture(base: AnyArchitecture, classes: tuple[str, ...], depth: int) -> AnyArchitecture:
    """Return the architecture of the base with new classes and, except for the built-in CNN, a new depth."""
    if isinstance(base, GraphArchitecture):
        return base.target(classes, depth)
    if isinstance(base, MLPArchitecture):
        return base.model_copy(update={"classes": classes, "hidden_layers": depth})
    assert depth == base.depth, "a CNN keeps the architecture of its base"
    return base.model_copy(update={"classes": classes})


def reuse_network(
    architecture: AnyArchitecture,
    base: LayeredNetwork | None,
    reuse: Reuse,
    *,
    generator: torch.Generator,
    source: ModelSource | None = None,
) -> tuple[LayeredNetwork, LoadReport]:
    """Build a network, copy the reused tensors from the base, and freeze blocks.

    The base is not modified. All layers are initialized before copying, so that random weights do not depend on
    the number of copied blocks.

    Raises:
        ValueError: A tensor to copy is missing, unexpected, or of another shape or dtype; see also `build_network`.
    """
    network = build_network(architecture, generator, source)
    prefixes = tuple(f"blocks.{index}." for index in range(reuse.copied)) + (("head.",) if reuse.keeps_head else ())
    state = network.state_dict()
    base_state = base.state_dict() if base is not None else {}
    copied = {name: tensor for name, tensor in base_state.items() if name.startswith(prefixes)}
    check_tensors(copied, {name: tensor for name, tensor in state.items() if name.startswith(prefixes)})
    network.load_state_dict({**state, **copied})
    network.train_only(reuse.trained)
    report = LoadReport(
        matched=tuple(sorted(copied)),
        fresh=tuple(sorted(state.keys() - copied.keys())),
        dropped=tuple(sorted(base_state.keys() - copied.keys())),
    )
    return network, report


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and dtypes.

    Raises:
        ValueError: Tensors are missing, unexpected or mismatched; the message lists all.
    """
    faults = [f"{name}: missing" for name in expected.keys() - tensors.keys()]
    faults += [f"{name}: unexpected" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        actual, required = (f"{t.dtype} {tuple(t.shape)}" for t in (tensors[name], expected[name]))
        if actual != required:
            faults.append(f"{name}: expected {required}, got {actual}")
    if faults:
        raise ValueError("; ".join(sorted(faults)))
