"""The one operation of this project: copy the first blocks of a base, freeze some of them, put fresh layers on top.

`transfer`, `finetune_cnn` and `scratch_cnn` only translate their parameters into a `Reuse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.networks.build import build_network
from pipeline.networks.layered import CNNArchitecture, LayeredNetwork, MLPArchitecture


@dataclass(frozen=True)
class Reuse:
    """What is taken from a base network, and what becomes of it.

    Attributes:
        copied: How many blocks, from the input, are copies of the base's.
        frozen: How many of these, from the input, are frozen; the rest of them are trained.
        depth: How many blocks the new network has; those above the copied ones are fresh.
        keeps_head: Whether the head is a copy too: the base is continued on its own classes.
    """

    copied: int
    frozen: int
    depth: int
    keeps_head: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.frozen <= self.copied <= self.depth, self
        assert self.depth >= 1, "a network has at least one block below its head"

    def __str__(self) -> str:
        """Return the record in words."""
        fresh = self.depth - self.copied
        head = "copied and trained" if self.keeps_head else "fresh"
        return (
            f"blocks: {self.frozen} copied and frozen, {self.copied - self.frozen} copied and trained, {fresh} fresh; "
            f"head: {head}"
        )


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor, by name.

    Attributes:
        matched: Copied from the base.
        fresh: Of the new network alone.
        dropped: Of the base alone.
    """

    matched: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report as one line."""
        return f"tensors: {len(self.matched)} matched, {len(self.fresh)} fresh, {len(self.dropped)} dropped"


def target_architecture(
    base: MLPArchitecture | CNNArchitecture, classes: tuple[int, ...], depth: int
) -> MLPArchitecture | CNNArchitecture:
    """Return the base's description with other classes and, for an MLP, another depth."""
    if isinstance(base, MLPArchitecture):
        return base.model_copy(update={"classes": classes, "hidden_layers": depth})
    assert depth == base.depth, "a CNN keeps the architecture of its base"
    return base.model_copy(update={"classes": classes})


def reuse_network(
    architecture: MLPArchitecture | CNNArchitecture,
    base: LayeredNetwork | None,
    reuse: Reuse,
    generator: torch.Generator,
) -> tuple[LayeredNetwork, LoadReport]:
    """Return a network made of a base's first blocks and fresh ones, frozen as `reuse` says.

    Args:
        architecture: What to build; see `target_architecture`.
        base: Stays as it is; only tensors are copied. None where nothing is.
        reuse: What is copied and frozen.
        generator: Draws the fresh weights, which do not depend on how many are then replaced by copies.

    Raises:
        ValueError: A tensor to copy is missing in the base, is of another shape, or has no place.
    """
    network = build_network(architecture, generator)
    prefixes = tuple(f"blocks.{index}." for index in range(reuse.copied)) + (("head.",) if reuse.keeps_head else ())
    wanted = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    theirs = base.state_dict() if base is not None else {}
    given = {name: value for name, value in theirs.items() if name.startswith(prefixes)}
    check_tensors(given, wanted)
    network.load_state_dict({**network.state_dict(), **given})
    network.freeze(reuse.frozen)
    names = set(network.state_dict())
    report = LoadReport(
        matched=tuple(sorted(given)),
        fresh=tuple(sorted(names - set(given))),
        dropped=tuple(sorted(set(theirs) - set(given))),
    )
    return network, report


def check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and types of tensors.

    Raises:
        ValueError: Listing what is missing, surplus, or different.
    """
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is surplus" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        if given[name].shape != wanted[name].shape or given[name].dtype != wanted[name].dtype:
            has = f"{given[name].dtype} {tuple(given[name].shape)}"
            needs = f"{wanted[name].dtype} {tuple(wanted[name].shape)}"
            faults.append(f"{name} is {has} instead of {needs}")
    if faults:
        raise ValueError("; ".join(sorted(faults)))
