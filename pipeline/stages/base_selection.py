"""Choosing the base of a target stage: as asked for, the newest that fits, or one trained first.

Everything that can be checked is checked before a base is trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import Split, split_as_drawn, split_for_target
from pipeline.errors import Fault, UserInputError
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.networks.reuse import Reuse, target_architecture
from pipeline.params import TargetChoice, TargetParams, TrainBaseParams, format_classes
from pipeline.stages.train_base import train_base
from pipeline.stages.training_run import requested_architecture
from pipeline.tracking.base_model import Base, find_base, load_base
from pipeline.tracking.recovery.orphans import without_run_adoption
from pipeline.tracking.store import Client

logger = logging.getLogger(__name__)

ToReuse = Callable[[int], Reuse]  # from the base's number of blocks to what is taken of them; refuses what it lacks


@dataclass(frozen=True)
class TargetSetup:
    """Everything about a target stage that is settled before its run is opened.

    Attributes:
        base: None where nothing is taken of one, not even its architecture.
        dataset: In memory.
        split: The draw of labels.
        reuse: What is copied and frozen.
        architecture: What is built.
        continued: Whether the base's own classes are trained further, with its head and its draw of labels.
        draw_from: The base whose draw of labels is inherited; the continued one, or one of which layers are left out.
        overlap: Classes that the base has seen and that its new head shall learn.
        data_seconds: Wall-clock of loading and drawing.
    """

    base: Base | None
    dataset: Dataset
    split: Split
    reuse: Reuse
    architecture: MLPArchitecture | CNNArchitecture
    continued: bool
    draw_from: Base | None
    overlap: tuple[int, ...]
    data_seconds: float


Check = Callable[[TargetSetup], None]


def prepare_target(
    params: TargetParams, client: Client, to_reuse: ToReuse, check: Check, *, min_depth: int
) -> TargetSetup:
    """Settle base, draw and reuse; a base that has to be trained first is trained once all else has been checked.

    Args:
        params: Of the stage.
        client: Of the tracking store.
        translate: What the stage takes of a base.
        check: Refuses what else is wrong with a choice.
        least_depth: The blocks that a base must have; 0 where none of its weights are used.

    Raises:
        UserInputError: The base cannot be had or does not fit, or the draw is not possible.
    """
    began = time.perf_counter()
    dataset, base = choose_dataset(params, client)
    draw_from = base if base and min_depth > 0 and is_continued(base, params, dataset) else None
    split = draw_labels(params, dataset, draw_from)
    data_seconds = time.perf_counter() - began
    if base is None:
        base = newest_base(params, client, dataset, depth=max(1, min_depth))
    choice = build_setup(params, to_reuse, base, draw_from, dataset, split, data_seconds)
    check(choice)
    if base is None and min_depth > 0:
        base = train_first(params, dataset, client)
        choice = build_setup(params, to_reuse, base, draw_from, dataset, split, data_seconds)
    return choice


def build_setup(
    params: TargetParams,
    to_reuse: ToReuse,
    base: Base | None,
    draw_from: Base | None,
    dataset: Dataset,
    split: Split,
    data_seconds: float,
) -> TargetSetup:
    """Return what follows from a base; without one, from the default one that would be trained."""
    if base is not None:
        architecture = base.network.architecture
    else:
        architecture = requested_architecture(TrainBaseParams(model=params.family), split)
    reuse = to_reuse(architecture.depth)
    whole = reuse.copied == architecture.depth
    continued = draw_from is not None and whole and reuse.copied > 0
    overlap: tuple[int, ...] = ()
    if base is not None and reuse.copied and not continued and base.dataset == dataset.name:
        overlap = tuple(sorted(set(base.classes) & set(params.class_numbers)))
    return TargetSetup(
        base=base,
        dataset=dataset,
        split=split,
        reuse=replace(reuse, keeps_head=continued),
        architecture=target_architecture(architecture, split.classes, reuse.depth),
        continued=continued,
        draw_from=draw_from,
        overlap=overlap,
        data_seconds=data_seconds,
    )


def choose_dataset(params: TargetChoice, client: Client) -> tuple[Dataset, Base | None]:
    """Return the data set, and the base where one was named: it then decides which data set `auto` is.

    Raises:
        UserInputError: The base is of the other family or was trained on images of another shape.
    """
    base = load_base(client, params.base) if params.base != "auto" else None
    name = base.dataset if base and params.dataset == "auto" else params.dataset
    dataset = load_dataset(name, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    if base is not None:
        architecture, shape = base.network.architecture, tuple(dataset.train.pixels.shape[1:])
        if architecture.family != params.family and not params.any_family:
            raise refused(
                params, f"is of the family {architecture.family}, and {params.entry_point} needs {params.family}"
            )
        if architecture.image_shape != shape:
            raise refused(params, f"was trained on images of {architecture.image_shape}, {dataset.name} has {shape}")
    return dataset, base


def refused(params: TargetChoice, why: str) -> UserInputError:
    """Return the refusal of the base that was named."""
    return UserInputError(Fault("base", params.base, f"{why}.", "Choose another, or base=auto."))


def is_continued(base: Base, params: TargetChoice, dataset: Dataset) -> bool:
    """Whether the base has the target's own classes, so that it is trained further."""
    return base.dataset == dataset.name and base.classes == params.class_numbers


def draw_labels(params: TargetParams, dataset: Dataset, continued: Base | None) -> Split:
    """Return the draw of labels: the continued base's own, unless another is asked for that does not mix its parts.

    Raises:
        UserInputError: A class has too few images, or a validation image was trained on before.
    """
    classes = params.class_numbers
    if continued and inherits_draw(params, continued):
        return split_as_drawn(dataset, classes, train=continued.train_indices, validation=continued.val_indices)
    split = split_for_target(
        dataset,
        classes,
        per_class=labels_asked_for(params, continued),
        val_per_class=params.val_per_class,
        val_fraction=params.val_fraction,
        seed=params.seed,
    )
    if continued:
        seen = set(continued.seen_indices.tolist()) & set(split.validation.indices.tolist())
        if seen:
            raise UserInputError(
                Fault(
                    "per_class",
                    params.per_class,
                    f"with seed={params.seed} this draw would validate on {len(seen)} images that {params.base} (or a "
                    "base before it) was trained on.",
                    "Leave out per_class and val_per_class to inherit the base's draw, or give its seed.",
                )
            )
    return split


def inherits_draw(params: TargetParams, continued: Base | None) -> bool:
    """Whether the labels drawn are those of the base that is continued."""
    return continued is not None and params.per_class == "auto" and params.val_per_class == "auto"


def labels_asked_for(params: TargetParams, continued: Base | None) -> int | Literal["all"]:
    """Return the labels a class to draw: as given, else the continued base's, else the stage's default."""
    if params.per_class != "auto":
        return params.per_class
    if continued is None:
        return params.default_per_class
    inherited = continued.params.get("per_class", "all")
    return "all" if inherited == "all" else int(inherited)


def newest_base(params: TargetChoice, client: Client, dataset: Dataset, *, depth: int) -> Base | None:
    """Return the newest base that fits the target, None where there is none."""
    return find_base(
        client,
        family=params.family,
        dataset=dataset.name,
        image_shape=tuple(dataset.train.pixels.shape[1:]),
        classes=params.class_numbers,
        depth=depth,
    )


def train_first(params: TargetChoice, dataset: Dataset, client: Client) -> Base | None:
    """Train a default base on the other classes, as a run of its own, and return it; only say so in a dry run.

    Raises:
        UserInputError: There are not enough other classes.
    """
    others = tuple(k for k in range(len(dataset.class_names)) if k not in params.class_numbers)
    if len(others) < 2:
        raise UserInputError(
            Fault(
                "classes", params.classes, f"leaves {len(others)} classes of {dataset.name} for a base.", "Name fewer."
            )
        )
    base_params = TrainBaseParams(
        model=params.family,
        classes=format_classes(others),
        dataset=dataset.name,
        data_dir=params.data_dir,
        seed=params.seed,
        device=params.device,
        threads=params.threads,
    )
    logger.info(
        f"no finished {params.family} base on {dataset.name} with other classes than {params.classes} was found"
    )
    if params.dry_run:
        logger.info(f"it would be trained first, on classes {base_params.classes}")
        return None
    logger.info(f"training one first, on classes {base_params.classes}, as a run of its own")
    with without_run_adoption():
        result = train_base(base_params)
    return load_base(client, result.model_uri)
