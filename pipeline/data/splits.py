"""Split a dataset into training, validation and test images of the selected classes, stratified and seeded.

Images are sampled by identity: a sample does not depend on their order, and equal images never end up in two splits.
Every split has a digest, which shows whether two runs used the same images.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.examples import Examples, select_examples, training_examples, validation_candidates
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset
from pipeline.data.stratified import ranked_rows, stratified_split
from pipeline.errors import Fault, UserInputError
from pipeline.params.data import format_class_names
from pipeline.runtime import tensor_bytes

logger = logging.getLogger(__name__)

VAL_PER_CLASS = 30  # validation images per class with few labels; at most a quarter of the images


@dataclass(frozen=True)
class Split:
    """The images of one experiment.

    Attributes:
        dataset: Name of the dataset.
        source: Path of the dataset's files.
        note: How the dataset was chosen.
        classes: Indices of the selected classes in the dataset; logit k of a network is for `classes[k]`.
        class_names: Names of the selected classes.
        all_class_names: Names of all classes of the dataset.
        geometry: Size, channels and resizing of the images.
        train: Training images.
        validation: Images that select the best epoch.
        test: Images for the final evaluation only.
        excluded: Number of test images left out because the base was trained on them.
    """

    dataset: str
    source: str
    note: str
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    all_class_names: tuple[str, ...]
    geometry: Geometry
    train: Examples
    validation: Examples
    test: Examples
    excluded: int = 0

    @property
    def classes_text(self) -> str:
        """The selected classes as a class list, such as `0-4` or `ants,bees`."""
        return format_class_names(self.class_names, self.classes)

    @property
    def digest(self) -> str:
        """One digest over all three splits."""
        parts = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.image_shape


@dataclass(frozen=True)
class LabelSample:
    """How many labels a target stage uses.

    Attributes:
        per_class: Training images per class; `all` uses all but the validation images.
        val_per_class: Validation images per class; `auto` is at most 30 and a quarter of the smallest class, or
            `val_fraction` of the images if `per_class` is `all`.
        val_fraction: See `val_per_class`.
        seed: Seed of the sample.
        clip: Whether to lower `per_class` to the size of the smallest class (set for defaults).
    """

    per_class: int | Literal["all"]
    val_per_class: int | Literal["auto"]
    val_fraction: float
    seed: int
    clip: bool = False


def split_for_base(dataset: Dataset, classes: tuple[int, ...], *, val_fraction: float, seed: int) -> Split:
    """Split all images of some classes; without an official validation split, a stratified fraction is held out.

    Raises:
        UserInputError: A class is too small for `val_fraction`.
    """
    train = training_examples(dataset, classes)
    if dataset.validation is not None:
        validation = validation_candidates(dataset, classes, train)
        return _split(dataset, classes, train=train.without(validation.ids), validation=validation)
    rows = stratified_split(train.labels, train.ids, val_fraction, seed=seed)
    return _split(dataset, classes, train=train.take(rows[0]), validation=train.take(rows[1]))


def split_for_target(
    dataset: Dataset, classes: tuple[int, ...], sample: LabelSample, *, seen: Tensor | None = None
) -> Split:
    """Sample training and validation images, a fixed number per class.

    Validation is sampled first, from the official validation split if there is one. For a given seed, samples are
    nested: a larger training sample contains the smaller ones, and validation is the same.

    Args:
        dataset: Dataset to sample from.
        classes: Target classes.
        sample: Number of images per class, and the seed.
        seen: Identities int64 (M,) of images that the base was trained on; excluded from validation and test.

    Raises:
        UserInputError: A class has too few images; the message says how many there are.
    """
    pool = training_examples(dataset, classes)
    official = dataset.validation is not None
    candidates = validation_candidates(dataset, classes, pool)
    wanted = validation_counts(candidates.counts(len(classes)), sample, official=official)
    if seen is not None:
        candidates = candidates.without(seen)
    counts = map(min, wanted, candidates.counts(len(classes)))
    ranked = dict(ranked_rows(candidates.labels, candidates.ids, sample.seed, purpose="validation"))
    empty = torch.zeros(0, dtype=torch.int64)
    chosen = [ranked.get(label, empty)[:count] for label, count in enumerate(counts)]
    validation = candidates.take(torch.cat(chosen).sort().values)
    train = _sample_training(pool.without(validation.ids), validation, sample, dataset=dataset, classes=classes)
    return _split(dataset, classes, train=train, validation=validation, seen=seen)


def validation_counts(available: list[int], sample: LabelSample, *, official: bool) -> list[int]:
    """Return the desired number of validation images per class, given the number of images per class."""
    if sample.val_per_class != "auto":
        return [sample.val_per_class] * len(available)
    if sample.per_class == "all":
        return available if official else [max(1, round(sample.val_fraction * count)) for count in available]
    share = min(available) if official else min(available) // 4
    return [min(VAL_PER_CLASS, max(1, share))] * len(available)


def _sample_training(
    pool: Examples, validation: Examples, sample: LabelSample, *, dataset: Dataset, classes: tuple[int, ...]
) -> Examples:
    """Sample `per_class` training examples per class; raise UserInputError if there are too few."""
    available, held_out = pool.counts(len(classes)), validation.counts(len(classes))
    per_class = sample.per_class
    if per_class != "all" and sample.clip and 1 <= min(available) < per_class:
        logger.info(f"per_class: lowered from {per_class} to {min(available)}, the size of the smallest class")
        per_class = min(available)
    for label, count in enumerate(available):
        class_name = f"class {dataset.class_names[classes[label]]} of {dataset.name}"
        if held_out[label] < (sample.val_per_class if sample.val_per_class != "auto" else 1):
            what = f"{class_name} has {held_out[label]} validation images that the base was not trained on."
            raise UserInputError(Fault("val_per_class", sample.val_per_class, what, "Choose a smaller val_per_class."))
        if count < (1 if per_class == "all" else per_class):
            what = (
                f"{class_name} has {count + held_out[label]} training images, {held_out[label]} of them for "
                f"validation: at most {count} are left."
            )
            raise UserInputError(Fault("per_class", per_class, what, "Choose a smaller per_class or val_per_class."))
    if per_class == "all":
        return pool
    chosen = [rows[:per_class] for _, rows in ranked_rows(pool.labels, pool.ids, sample.seed, purpose="labels")]
    return pool.take(torch.cat(chosen).sort().values)


def restore_split(
    dataset: Dataset, classes: tuple[int, ...], *, train: Tensor, validation: Tensor, seen: Tensor
) -> Split:
    """Restore the split of an earlier stage from the identities of its images; later additions are ignored.

    Raises:
        UserInputError: The dataset no longer has all of these images.
    """
    pool = training_examples(dataset, classes)
    candidates = validation_candidates(dataset, classes, pool)
    parts = [_select_by_id(dataset, examples, ids) for examples, ids in ((pool, train), (candidates, validation))]
    return _split(dataset, classes, train=parts[0], validation=parts[1], seen=seen)


def _select_by_id(dataset: Dataset, examples: Examples, ids: Tensor) -> Examples:
    """Select examples by identity, each as often as in `ids`; raise UserInputError if one is missing."""
    ordered, order = examples.ids.sort(stable=True)
    wanted = ids.sort().values
    first = torch.searchsorted(wanted, wanted)
    positions = torch.searchsorted(ordered, wanted) + torch.arange(len(wanted)) - first
    present = positions < len(ordered)
    present &= ordered[positions.clamp(max=len(ordered) - 1)] == wanted
    if missing := int((~present).sum()):
        what = f"its label sample does not match {dataset.name}: {missing} of {len(wanted)} images are missing."
        raise UserInputError(Fault("base", None, what, "Give per_class to sample new labels."))
    return examples.take(order[positions].sort().values)


def _split(
    dataset: Dataset, classes: tuple[int, ...], *, train: Examples, validation: Examples, seen: Tensor | None = None
) -> Split:
    class_names = tuple(dataset.class_names[number] for number in classes)
    everything = select_examples(dataset.test, classes, dataset)
    test = everything if seen is None else everything.without(seen)
    excluded = len(everything) - len(test)
    if excluded:
        _check_test(everything, test, class_names)
        logger.warning(f"{excluded} of {len(everything)} test images excluded: the base was trained on them")
    duplicates = int(torch.isin(select_examples(dataset.train, classes, dataset).ids, dataset.test.ids).sum())
    if duplicates:
        logger.warning(f"{duplicates} training images of {dataset.name} excluded: also in its test split")
    return Split(
        dataset=dataset.name,
        source=dataset.source,
        note=dataset.note,
        classes=classes,
        class_names=class_names,
        all_class_names=dataset.class_names,
        geometry=dataset.geometry,
        train=train,
        validation=validation,
        test=test,
        excluded=excluded,
    )


def _check_test(everything: Examples, test: Examples, class_names: tuple[str, ...]) -> None:
    """Raise UserInputError if no test image of a class is left."""
    before, after = everything.counts(len(class_names)), test.counts(len(class_names))
    for class_name, count, left in zip(class_names, before, after, strict=True):
        if count and not left:
            what = f"it was trained on all {count} test images of class {class_name}."
            raise UserInputError(Fault("base", None, what, "Choose another base, or other classes."))


def fold_examples(split: Split) -> Examples:
    """Return the images for cross-validation: training images, and validation images unless the split is official."""
    train, validation = split.train, split.validation
    if validation.images is not train.images:
        return train
    rows, order = torch.cat([train.rows, validation.rows]).sort()
    return Examples(train.images, rows, torch.cat([train.labels, validation.labels])[order])


def folds_digest(examples: Examples, folds: list[Tensor]) -> str:
    """Return a digest of the images and their assignment to folds."""
    digest = hashlib.sha256(examples.digest.encode())
    for fold in folds:
        digest.update(tensor_bytes(fold))
    return digest.hexdigest()[:32]


def check_batch_size(split: Split, batch_size: int) -> None:
    """Reject a batch size that exceeds the training set.

    Raises:
        UserInputError: `batch_size` exceeds the number of training images.
    """
    count = len(split.train)
    if batch_size > count:
        what = f"must be at most the number of training images, {count}."
        raise UserInputError(Fault("batch_size", batch_size, what, f"Choose a value in [1, {count}]."))
