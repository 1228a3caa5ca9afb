"""Prepares a target stage: dataset, base model, label sample, and which layers are reused.

Read `prepare_target`. Everything that can be validated is validated before a base is trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import Split, check_batch, split_as_drawn, split_for_target
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import AnyArchitecture
from pipeline.networks.reuse import Reuse, target_architecture
from pipeline.params import TrainBaseParams, format_classes
from pipeline.params.stages import AnyTargetParams, TargetStageParams
from pipeline.params.target import DEFAULT_PER_CLASS, TARGET_BUDGETS, ReuseParams
from pipeline.stages.train_base import train_base
from pipeline.stages.training_run import requested_architecture
from pipeline.tracking import names
from pipeline.tracking.base_model import Base, find_base, load_base
from pipeline.tracking.feature_artifacts import check_features_exist
from pipeline.tracking.recovery.orphans import without_run_adoption
from pipeline.tracking.store import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReuseRule:
    """How a stage reuses a base."""

    min_depth: int  # number of blocks that the base must have; 0 if none of its weights are used
    for_depth: Callable[[int], Reuse]  # for a base with that many blocks; raises UserInputError if it has too few


@dataclass(frozen=True)
class TargetData:
    """The data of a target stage."""

    dataset: Dataset
    split: Split
    per_class: int | Literal["all"]  # as requested
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
    overlap: tuple[int, ...]  # classes that the base was trained on and that the new head has to learn

    def budget(self) -> dict[str, Any]:
        """Return the default budget for the requested number of labels, its batch no larger than the data."""
        budget = TARGET_BUDGETS["all" if self.data.per_class == "all" else "few"]
        return {**budget, "batch_size": min(budget["batch_size"], len(self.data.split.train))}


def prepare_target(params: TargetStageParams, client: Client, rule: ReuseRule) -> TargetSetup:
    """Resolve base, labels and reuse; train a base if there is no compatible one (not in a dry run).

    Raises:
        UserInputError: Base, labels, reuse or batch size are invalid.
    """
    began = time.perf_counter()
    dataset, base = choose_dataset(params, client)
    data = load_target_data(params, dataset, base if rule.min_depth > 0 else None, began=began)
    base = base or newest_base(params, client, dataset, depth=max(1, rule.min_depth))
    setup = build_setup(params, data, base, rule=rule)
    check_setup(params, setup, client)
    if base is None and rule.min_depth > 0:
        setup = build_setup(params, data, train_first(params, dataset, client), rule=rule)
    return setup


def choose_dataset(params: AnyTargetParams, client: Client) -> tuple[Dataset, Base | None]:
    """Load the dataset, and the base if one is named; dataset=auto is then the base's.

    Raises:
        UserInputError: The base belongs to the other family, or was trained on images of another shape.
    """
    base = load_base(client, params.base) if params.base != "auto" else None
    name = base.dataset if base and params.dataset == "auto" else params.dataset
    dataset = load_dataset(name, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    if base is not None:
        architecture, shape = base.network.architecture, dataset.geometry.image_shape
        problem = ""
        if architecture.family != params.family and not params.any_family:
            problem = f"its family is {architecture.family}, and {params.entry_point} needs {params.family}"
        elif architecture.image_shape != shape:
            problem = f"was trained on images of {architecture.image_shape}, {dataset.name} has {shape}"
        if problem:
            raise UserInputError(Fault("base", params.base, f"{problem}.", "Choose another one, or base=auto."))
    return dataset, base


def load_target_data(params: TargetStageParams, dataset: Dataset, base: Base | None, *, began: float) -> TargetData:
    """Sample the labels; by default the sample of the base if it was trained on these classes.

    Raises:
        UserInputError: A class has too few images, or the base was trained on images of the validation set.
    """
    classes = params.class_numbers
    known = base if base and base.dataset == dataset.name and base.classes == classes else None
    per_class = requested_labels(params, known)
    inherited = known is not None and params.per_class == "auto" and params.val_per_class == "auto"
    if known is not None and inherited:
        split = split_as_drawn(dataset, classes, train=known.train_indices, validation=known.val_indices)
    else:
        split = split_for_target(
            dataset,
            classes,
            per_class=per_class,
            val_per_class=params.val_per_class,
            val_fraction=params.val_fraction,
            seed=params.seed,
        )
        check_unseen(params, split, known)
    return TargetData(dataset, split, per_class, known, inherited, time.perf_counter() - began)


def requested_labels(params: TargetStageParams, known_base: Base | None) -> int | Literal["all"]:
    """Return the labels per class: the parameter, else the base's for the same classes, else the family's default."""
    if params.per_class != "auto":
        return params.per_class
    if known_base is None:
        return DEFAULT_PER_CLASS[params.family]
    per_class = known_base.params.get("per_class", "all")
    return "all" if per_class == "all" else int(per_class)


def check_unseen(params: TargetStageParams, split: Split, known_base: Base | None) -> None:
    """Raise UserInputError if a base of the same classes, or one of its bases, was trained on validation images."""
    seen = set(known_base.seen_indices.tolist()) if known_base else set()
    if count := len(seen & set(split.validation.indices.tolist())):
        allowed = (
            f"with seed={params.seed}, {count} validation images were training images of {params.base} or its bases."
        )
        remedy = "Leave out per_class and val_per_class to use the base's label sample, or use its seed."
        raise UserInputError(Fault("per_class", params.per_class, allowed, remedy))


def build_setup(params: TargetStageParams, data: TargetData, base: Base | None, *, rule: ReuseRule) -> TargetSetup:
    """Return the setup for a base; without one, for the default base that would be trained."""
    if base is not None:
        base_architecture = base.network.architecture
    else:
        base_architecture = requested_architecture(TrainBaseParams(model=params.family), data.split)
    reuse = rule.for_depth(base_architecture.depth)
    continues = data.known_base is not None and reuse.copied == base_architecture.depth
    overlap: set[int] = set()
    if base is not None and reuse.copied and not continues and base.dataset == data.dataset.name:
        overlap = set(base.classes) & set(params.class_numbers)
    architecture = target_architecture(base_architecture, data.split.classes, reuse.depth)
    return TargetSetup(data, base, replace(reuse, keeps_head=continues), architecture, tuple(sorted(overlap)))


def check_setup(params: TargetStageParams, setup: TargetSetup, client: Client) -> None:
    """Raise UserInputError for an invalid batch size, overlapping classes of a CNN, or unusable features."""
    batch_size = setup.budget()["batch_size"] if params.batch_size == "auto" else params.batch_size
    check_batch(setup.data.split, batch_size)
    if batch_size == 1 and getattr(setup.architecture, "batch_norm", False) and setup.reuse.frozen < setup.reuse.depth:
        raise UserInputError(Fault("batch_size", 1, "the base has batch norm.", "Use at least 2 images per batch."))
    if setup.overlap and params.family == "cnn":
        allowed = f"the base was already trained on {', '.join(map(str, setup.overlap))}."
        raise UserInputError(Fault("classes", params.classes, allowed, "Choose other classes, or another base."))
    features = params.features if isinstance(params, ReuseParams) else "none"
    if features != "none" and setup.reuse.frozen == 0:
        raise UserInputError(Fault("features", features, "no block is frozen: nothing to cache.", "Use features=none."))
    if features not in ("none", "auto"):
        check_features_exist(client, features)


def base_tags(base: Base) -> dict[str, object]:
    """Return the tags that identify a run's base."""
    return {
        names.BASE_MODEL_URI: base.model_uri,
        names.BASE_RUN_ID: base.run_id,
        names.ANCESTRY: base.ancestry,
    }


def newest_base(params: AnyTargetParams, client: Client, dataset: Dataset, *, depth: int) -> Base | None:
    """Return the newest compatible base with at least `depth` blocks, or None."""
    return find_base(
        client,
        family=params.family,
        dataset=dataset.name,
        image_shape=dataset.geometry.image_shape,
        classes=params.class_numbers,
        depth=depth,
    )


def train_first(params: AnyTargetParams, dataset: Dataset, client: Client) -> Base | None:
    """Train a default base on the other classes in a separate run; in a dry run, only log that.

    Raises:
        UserInputError: There are fewer than two other classes.
    """
    others = tuple(k for k in range(len(dataset.class_names)) if k not in params.class_numbers)
    if len(others) < 2:
        allowed = f"leaves {len(others)} classes of {dataset.name} for a base, which needs 2."
        raise UserInputError(Fault("classes", params.classes, allowed, "Choose fewer classes."))
    base_params = TrainBaseParams(
        model=params.family,
        classes=format_classes(others),
        dataset=dataset.name,
        data_dir=params.data_dir,
        seed=params.seed,
        device=params.device,
        threads=params.threads,
    )
    action = "would train" if params.dry_run else "training"
    logger.info(
        f"no compatible {params.family} base on {dataset.name} without classes {params.classes}: "
        f"{action} one first, on classes {base_params.classes} (separate run)"
    )
    if params.dry_run:
        return None
    with without_run_adoption():
        return load_base(client, train_base(base_params).model_uri)
