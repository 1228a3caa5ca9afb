"""The base of a target stage, and the dataset and classes that go with it.

Read `choose_target`; `train_first` trains a base if there is no compatible one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from pipeline.data.classes import Classes, default_target_classes, halve_classes, is_digits, select_classes
from pipeline.data.normalization import conflicts
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.errors import Fault, UserInputError
from pipeline.networks.origins.load import named_code
from pipeline.params import Family, TrainBaseParams
from pipeline.params.data import NO_DATASET, PREPROCESSING_FIELDS, format_class_names
from pipeline.params.target_stages import AnyTargetParams
from pipeline.stages.data_loading import describe_data, load_data
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.base_model import Base, load_base
from pipeline.tracking.base_search import BaseQuery, find_base
from pipeline.tracking.recovery.orphans import without_run_adoption
from pipeline.tracking.store import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What a target stage trains on, and the base it builds on.

    Attributes:
        dataset: With the geometry of the base, if there is one.
        classes: Numbers of the target classes.
        base: None if one has to be trained first, or none is needed.
    """

    dataset: Dataset
    classes: Classes
    base: Base | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the target classes."""
        return tuple(self.dataset.class_names[number] for number in self.classes)


def choose_target(params: AnyTargetParams, client: Client, *, depth: int, needs_base: bool) -> Target:
    """Resolve dataset, classes and base; a base's preprocessing is applied to the dataset.

    Args:
        params: With dataset=auto, a named base's dataset is used.
        client: Of the tracking store.
        depth: Minimum number of blocks of a base with base=auto.
        needs_base: Whether a base is trained if there is none.

    Raises:
        UserInputError: The base belongs to another family, parameters contradict its preprocessing, or the dataset
            lacks a class.
    """
    if params.base != "auto":
        named = load_base(client, params.base, named_code(params.model))
        check_base(params, named)
        name = named.dataset if params.dataset == "auto" else params.dataset
        dataset = load_data(params, dataset=name, geometry=named.network.architecture.preprocessing.geometry)
        return Target(dataset, target_classes(params, dataset.class_names, dataset.name, base=named), named)
    summary = describe_data(params)
    base = newest_base(params, client, summary, depth=depth)
    classes = target_classes(params, summary.class_names, summary.name, base=base)
    if base is None and needs_base and params.classes == "auto" and len(classes) == len(summary.class_names):
        classes = halve_classes(summary.class_names, summary.name)[1]
    geometry = base.network.architecture.preprocessing.geometry if base else None
    return Target(load_data(params, dataset=summary.name, geometry=geometry), classes, base)


def check_base(params: AnyTargetParams, base: Base) -> None:
    """Raise UserInputError for a base that the stage cannot use, or parameters that contradict it."""
    architecture = base.network.architecture
    if architecture.family == "mlp" and params.family == "cnn":
        problem = f"its family is mlp, and {params.entry_point} needs a convolutional network."
        raise UserInputError(Fault("base", params.base, problem, "Choose another one, or base=auto."))
    if params.model and base.source is None:
        problem = f"the base was not built by your own code (its family is {architecture.family})."
        raise UserInputError(Fault("model", params.model, problem, "Leave model out."))
    if params.dataset == "auto" and base.dataset == NO_DATASET:
        problem = "the base was imported without a dataset."
        raise UserInputError(Fault("dataset", "auto", problem, "Name the target's images, such as folder:PATH."))
    if faults := conflicts(params, architecture.preprocessing):
        raise UserInputError(*faults)


def target_classes(
    params: AnyTargetParams, class_names: tuple[str, ...], dataset: str, *, base: Base | None
) -> Classes:
    """Return the numbers of the target classes: the parameter's, else the default for the base."""
    if params.classes != "auto":
        return select_classes(params.classes, class_names, dataset)
    seen = base.classes if base is not None and base.dataset == dataset else ()
    return default_target_classes(base_family(params, base), class_names, seen)


def base_family(params: AnyTargetParams, base: Base | None) -> Family:
    """Return the family of the base, or of the base that would be trained."""
    if base is None:
        return params.family
    return "mlp" if base.network.architecture.family == "mlp" else "cnn"


def base_tags(base: Base) -> dict[str, object]:
    """Return the tags that identify a run's base."""
    return {
        names.BASE_MODEL_URI: base.model_uri,
        names.BASE_RUN_ID: base.run_id,
        names.ANCESTRY: base.ancestry,
    }


def newest_base(params: AnyTargetParams, client: Client, dataset: DatasetSummary, *, depth: int) -> Base | None:
    """Return the newest compatible base with at least `depth` blocks, or None.

    It was trained on other classes of the dataset than the target's; if these are not given, it leaves at least two.
    """
    class_names = dataset.class_names
    fixed = params.classes != "auto" or is_digits(class_names)
    wanted = {class_names[number] for number in target_classes(params, class_names, dataset.name, base=None)}

    def accepts_classes(classes: tuple[str, ...]) -> bool:
        return not wanted & set(classes) if fixed else len(wanted - set(classes)) >= 2

    query = BaseQuery(
        family=params.family,
        dataset=dataset.name,
        class_names=class_names,
        depth=depth,
        accepts_classes=accepts_classes,
        accepts_preprocessing=lambda preprocessing: not conflicts(params, preprocessing),
    )
    return find_base(client, query)


def given_data(params: AnyTargetParams) -> dict[str, Any]:
    """Return the data parameters for a base that is trained first."""
    return params.model_dump(include={*PREPROCESSING_FIELDS, "data_dir", "skip_unreadable"})


def train_first(params: AnyTargetParams, target: Target, client: Client) -> Base | None:
    """Train a default base on the other classes in a separate run; in a dry run, only log that.

    Raises:
        UserInputError: There are fewer than two other classes.
    """
    dataset, names = target.dataset, target.dataset.class_names
    others = tuple(number for number in range(len(names)) if number not in target.classes)
    classes = format_class_names(target.class_names, target.classes)
    if len(others) < 2:
        allowed = f"leaves {len(others)} classes of {dataset.name} for a base, which needs 2."
        remedy = "Choose fewer classes, or name a base that was trained on other data."
        raise UserInputError(Fault("classes", classes, allowed, remedy))
    base_params = TrainBaseParams(
        model=params.family,
        classes=format_class_names(tuple(names[number] for number in others), others),
        dataset=dataset.name,
        seed=params.seed,
        device=params.device,
        threads=params.threads,
        **given_data(params),
    )
    action = "would train" if params.dry_run else "training"
    logger.info(
        f"no compatible {params.family} base on {dataset.name} without classes {classes}: "
        f"{action} one first, on classes {base_params.classes} (separate run)"
    )
    if params.dry_run:
        return None
    with without_run_adoption():
        return load_base(client, train_base(base_params).model_uri)
