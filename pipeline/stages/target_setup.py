"""Prepares a target stage: base model, label sample, and which layers are reused.

Read `prepare_target`. Everything that can be validated is validated before a base is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.data.records import Dataset
from pipeline.data.splits import LabelSample, Split, check_batch_size, restore_split, split_for_target
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import AnyArchitecture
from pipeline.networks.layered import CNNArchitecture
from pipeline.networks.origins.source import ModelSource
from pipeline.networks.reuse import Reuse, target_architecture
from pipeline.params import TrainBaseParams
from pipeline.params.target import DEFAULT_PER_CLASS, TARGET_BUDGETS, ReuseParams
from pipeline.params.target_stages import TargetStageParams
from pipeline.stages.base_network import has_batch_norm
from pipeline.stages.base_selection import Target, choose_target, given_data, train_first
from pipeline.stages.data_loading import load_data
from pipeline.stages.fit_settings import requested_architecture
from pipeline.stages.strategy import check_strategy
from pipeline.tracking.base_model import Base
from pipeline.tracking.feature_artifacts import check_features_exist
from pipeline.tracking.store import Client
from pipeline.training.batch_size import default_batch_size, log_default_batch_size


@dataclass(frozen=True)
class ReuseRule:
    """How a stage reuses a base.

    Attributes:
        min_depth: Number of blocks that the base must have; 0 if none of its weights are used.
        for_blocks: Returns the reuse for a base with these blocks; raises UserInputError if it has too few.
    """

    min_depth: int
    for_blocks: Callable[[tuple[str, ...]], Reuse]


@dataclass(frozen=True)
class TargetData:
    """The data of a target stage."""

    dataset: Dataset
    split: Split
    per_class: int | Literal["all"]  # number of labels that are used
    known_base: Base | None  # the base, if it was trained on these very classes; its label sample is then the default
    inherited: bool  # whether the label sample is that of `known_base`
    seconds: float  # wall-clock time of loading and splitting


@dataclass(frozen=True)
class TargetSetup:
    """Everything about a target stage that is resolved before its run is created."""

    data: TargetData
    base: Base | None  # training from scratch needs its architecture only, or none
    reuse: Reuse  # with `keeps_head`, the base's training continues
    architecture: AnyArchitecture
    overlap: tuple[str, ...]  # classes that the base was trained on and that the new head has to learn

    @property
    def source(self) -> ModelSource | None:
        """The user's own code that built the base."""
        return self.base.source if self.base is not None else None

    def budget(self) -> dict[str, Any]:
        """Return the default budget for the number of labels, with a batch that fits the data."""
        images = len(self.data.split.train)
        if self.data.per_class != "all":
            few = TARGET_BUDGETS["few"]
            return {**few, "batch_size": min(few["batch_size"], images)}
        budget = TARGET_BUDGETS["all"]
        return {**budget, "batch_size": default_batch_size(budget["batch_size"], images)}


def prepare_target(params: TargetStageParams, client: Client, rule: ReuseRule) -> TargetSetup:
    """Resolve base, labels and reuse; train a base if there is no compatible one (not in a dry run).

    Raises:
        UserInputError: Base, labels, reuse or batch size are invalid.
    """
    began = time.perf_counter()
    target = choose_target(params, client, depth=max(1, rule.min_depth), needs_base=rule.min_depth > 0)
    setup = build_setup(params, target, rule, began=began)
    check_setup(params, setup, client)
    if target.base is None and rule.min_depth > 0 and (base := train_first(params, target, client)) is not None:
        geometry = base.network.architecture.preprocessing.geometry
        dataset = load_data(params, dataset=target.dataset.name, geometry=geometry)
        setup = build_setup(params, Target(dataset, target.classes, base), rule, began=began)
    return setup


def load_target_data(params: TargetStageParams, target: Target, *, may_inherit: bool, began: float) -> TargetData:
    """Sample the labels; by default the sample of the base if it was trained on these classes.

    Images that the base was trained on are in neither the validation nor the test split, whether or not its weights are
    used: then all arms of a comparison have the same images.

    Raises:
        UserInputError: A class has too few images.
    """
    dataset, base = target.dataset, target.base
    known = (
        base if may_inherit and base and base.dataset == dataset.name and base.classes == target.class_names else None
    )
    has_sample = known is not None and not known.is_imported
    inherited = has_sample and params.per_class == "auto" and params.val_per_class == "auto"
    if known is not None and inherited:
        draw = {"train": known.train_ids, "validation": known.val_ids, "seen": known.seen_ids}
        split = restore_split(dataset, target.classes, **draw)
    else:
        sample = LabelSample(
            per_class=requested_labels(params, known),
            val_per_class=params.val_per_class,
            val_fraction=params.val_fraction,
            seed=params.seed,
            clip=params.per_class == "auto",
        )
        split = split_for_target(dataset, target.classes, sample, seen=base.seen_ids if base else None)
    requested = requested_labels(params, known)
    per_class = requested if requested == "all" else min(split.train.counts(len(split.classes)))
    return TargetData(dataset, split, per_class, known, inherited, time.perf_counter() - began)


def requested_labels(params: TargetStageParams, known_base: Base | None) -> int | Literal["all"]:
    """Return the labels per class: the parameter, else the base's for the same classes, else the family's default."""
    if params.per_class != "auto":
        return params.per_class
    if known_base is None:
        return DEFAULT_PER_CLASS[params.family]
    per_class = known_base.params.get("per_class", "all")
    return "all" if per_class == "all" else int(per_class)


def build_setup(params: TargetStageParams, target: Target, rule: ReuseRule, *, began: float) -> TargetSetup:
    """Return the setup for a base; without one, for the default base that would be trained."""
    data = load_target_data(params, target, may_inherit=rule.min_depth > 0, began=began)
    base, split = target.base, data.split
    if base is not None:
        base_architecture = base.network.architecture
    else:
        base_architecture = requested_architecture(TrainBaseParams(model=params.family, **given_data(params)), split)
    reuse = rule.for_blocks(base_architecture.block_names)
    check_depth(reuse, base_architecture)
    continues = data.known_base is not None and reuse.copied == base_architecture.depth
    overlap: set[str] = set()
    if base is not None and reuse.copied and not continues and base.dataset == data.dataset.name:
        overlap = set(base.classes) & set(split.class_names)
    architecture = target_architecture(base_architecture, split.class_names, reuse.depth)
    in_order = tuple(class_name for class_name in split.class_names if class_name in overlap)
    return TargetSetup(data, base, replace(reuse, keeps_head=continues), architecture, in_order)


def check_depth(reuse: Reuse, base: AnyArchitecture) -> None:
    """Raise UserInputError if blocks of a CNN that was built here are dropped."""
    if isinstance(base, CNNArchitecture) and reuse.depth < base.depth:
        what = f"a CNN that was built here keeps its {base.depth} blocks."
        raise UserInputError(Fault("upper", "drop", what, "Use upper=fresh, or reuse_layers=all."))


def check_setup(params: TargetStageParams, setup: TargetSetup, client: Client) -> None:
    """Raise UserInputError for an invalid batch size, overlapping classes of a CNN, or unusable solver or features."""
    batch_size = setup.budget()["batch_size"] if params.batch_size == "auto" else params.batch_size
    if params.batch_size == "auto" and setup.data.per_class == "all":
        log_default_batch_size(TARGET_BUDGETS["all"]["batch_size"], len(setup.data.split.train))
    check_batch_size(setup.data.split, batch_size)
    epochs = setup.budget()["epochs"] if params.epochs == "auto" else params.epochs
    if params.warmup_epochs >= epochs:
        allowed = f"must be fewer than the {epochs} epochs of the fit."
        raise UserInputError(Fault("warmup_epochs", f"{params.warmup_epochs:g}", allowed, "Train for more epochs."))
    if batch_size == 1 and trains_batch_norm(setup):
        raise UserInputError(Fault("batch_size", 1, "the base has batch norm.", "Use at least 2 images per batch."))
    if setup.overlap and params.family == "cnn":
        allowed = f"the base was already trained on {', '.join(setup.overlap)}."
        raise UserInputError(Fault("classes", params.classes, allowed, "Choose other classes, or another base."))
    trained = setup.reuse.depth - setup.reuse.frozen
    if solves_head(params) and trained:
        what = f"trains the head alone, but {trained} of {setup.reuse.depth} blocks are not frozen."
        raise UserInputError(Fault("head_solver", "convex", what, "Copy and freeze all of them, or use sgd."))
    if solves_head(params) and getattr(setup.architecture, "head", "linear") != "linear":
        what = "solves a linear head; the base's head is not linear."
        raise UserInputError(Fault("head_solver", "convex", what, "Use head_solver=sgd, or other classes."))
    if isinstance(params, ReuseParams) and params.strategy == "lp_ft":
        check_strategy(setup.reuse, setup.architecture)
    features = params.features if isinstance(params, ReuseParams) else "none"
    if features != "none" and setup.reuse.frozen == 0:
        raise UserInputError(Fault("features", features, "no block is frozen: nothing to cache.", "Use features=none."))
    if features not in ("none", "auto"):
        check_features_exist(client, features)


def trains_batch_norm(setup: TargetSetup) -> bool:
    """Return whether a trained block has batch norm."""
    if setup.base is None:
        return getattr(setup.architecture, "batch_norm", False) and bool(setup.reuse.trained)
    blocks = setup.base.network.blocks
    return any(has_batch_norm(blocks[index]) for index in setup.reuse.trained)


def solves_head(params: TargetStageParams) -> bool:
    """Return whether the head is solved rather than trained by epochs."""
    return isinstance(params, ReuseParams) and params.head_solver == "convex"
