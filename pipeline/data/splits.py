"""Splits of a data set: classes, validation, labels per class. All stratified and seeded.

Every split stores the indices of its images in the official training (or test) split and a digest of their content,
which shows whether two runs used the same images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.records import Dataset, Images
from pipeline.data.stratified import shuffled_indices, stratified_cut
from pipeline.errors import Fault, UserInputError
from pipeline.params import format_classes
from pipeline.runtime import tensor_bytes

VAL_PER_CLASS = 30  # validation images per class with few labels


@dataclass(frozen=True)
class Examples:
    """Images of the chosen classes: rows of an official split, which may be memory-mapped.

    Attributes:
        images: All images of the official split.
        rows: int64 (N,), ascending rows of `images`.
        labels: int64 (N,), 0 to K-1: index of the class among the selected ones.
    """

    images: Images
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, positions: Tensor) -> Examples:
        """Return the examples at some positions (M,)."""
        return Examples(self.images, self.rows[positions], self.labels[positions])

    def gather(self, positions: Tensor) -> Tensor:
        """Return the pixels uint8 (M, C, H, W) at some positions (M,)."""
        return self.images.pixels[self.rows[positions]]

    @cached_property
    def pixels(self) -> Tensor:
        """All pixels uint8 (N, C, H, W) as a copy in memory; use `gather` for data that may exceed memory."""
        return self.images.pixels[self.rows]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.pixels.shape[1:]
        return channels, height, width

    @property
    def ids(self) -> Tensor:
        """Identities int64 (N,) of the images."""
        return self.images.ids[self.rows]

    @property
    def indices(self) -> Tensor:
        """The rows."""
        return self.rows

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over shape, identities and labels."""
        digest = hashlib.sha256(str((self.image_shape, len(self))).encode())
        digest.update(tensor_bytes(self.ids))
        digest.update(tensor_bytes(self.labels))
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Split:
    """The images of one experiment.

    Attributes:
        dataset: Name of the data set.
        source: Path of its files.
        note: How it was chosen.
        classes: Selected class numbers; output k of a network is `classes[k]`.
        class_names: Their names.
        train: Training images.
        validation: Images that select the epoch.
        test: Images for the final evaluation only.
    """

    dataset: str
    source: str
    note: str
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples

    @property
    def classes_text(self) -> str:
        """The selected classes, such as `0-4`."""
        return format_classes(self.classes)

    @property
    def digest(self) -> str:
        """One digest over all three splits."""
        parts = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.image_shape


def split_for_base(dataset: Dataset, classes: tuple[int, ...], *, val_fraction: float, seed: int) -> Split:
    """Return all images of some classes, with a stratified share of the training split for validation.

    Raises:
        UserInputError: A class does not exist, or is too small for the share.
    """
    examples = choose_classes(dataset.train, classes, dataset)
    train, validation = stratified_cut(examples.labels, val_fraction, seed=seed, purpose="validation")
    return _split(dataset, classes, train=examples.take(train), validation=examples.take(validation))


def split_for_target(
    dataset: Dataset,
    classes: tuple[int, ...],
    *,
    per_class: int | Literal["all"],
    val_per_class: int | Literal["auto"],
    val_fraction: float,
    seed: int,
) -> Split:
    """Sample training and validation images, a number per class.

    Validation is sampled first. With one seed, a larger training sample contains a smaller one; validation is the same.

    Args:
        dataset: To sample from.
        classes: The target classes.
        per_class: Training images per class; `all` uses all but the validation images.
        val_per_class: Validation images per class; `auto` is 30, or `val_fraction` of them with all labels.
        val_fraction: See `val_per_class`.
        seed: Of the sample.

    Raises:
        UserInputError: A class does not exist or has too few images; says how many there are.
    """
    examples = choose_classes(dataset.train, classes, dataset)
    train, validation = [], []
    for label, indices in shuffled_indices(examples.labels, seed, "validation"):
        val_count = VAL_PER_CLASS if per_class != "all" else max(1, round(val_fraction * len(indices)))
        val_count = val_count if val_per_class == "auto" else val_per_class
        count = len(indices) - val_count if per_class == "all" else per_class
        if count < 1 or val_count + count > len(indices):
            what = (
                f"class {classes[label]} of {dataset.name} has {len(indices)} training images, {val_count} of them for "
                f"validation: at most {max(0, len(indices) - val_count)} are left."
            )
            raise UserInputError(Fault("per_class", per_class, what, "Choose a smaller per_class or val_per_class."))
        validation.append(indices[:val_count])
        train.append(indices[val_count : val_count + count])
    first, second = (examples.take(torch.cat(part).sort().values) for part in (train, validation))
    return _split(dataset, classes, train=first, validation=second)


def split_as_drawn(dataset: Dataset, classes: tuple[int, ...], *, train: Tensor, validation: Tensor) -> Split:
    """Return the split of an earlier stage, by indices into the official training split.

    Raises:
        UserInputError: The indices are not images of these classes in this data set.
    """
    examples = choose_classes(dataset.train, classes, dataset)
    parts = []
    for wanted in (train.long(), validation.long()):
        indices = torch.searchsorted(examples.indices, wanted).clamp(max=len(examples) - 1)
        if not torch.equal(examples.indices[indices], wanted):
            what = f"its label sample does not match {dataset.name}."
            raise UserInputError(Fault("base", None, what, "Give per_class to sample new labels."))
        parts.append(examples.take(indices))
    return _split(dataset, classes, train=parts[0], validation=parts[1])


def _split(dataset: Dataset, classes: tuple[int, ...], *, train: Examples, validation: Examples) -> Split:
    class_names = tuple(dataset.class_names[number] for number in classes)
    test = choose_classes(dataset.test, classes, dataset)
    return Split(dataset.name, dataset.source, dataset.note, classes, class_names, train, validation, test)


def choose_classes(images: Images, classes: tuple[int, ...], dataset: Dataset) -> Examples:
    """Return the images of some classes, relabelled 0 to K-1 in the order of `classes`.

    Raises:
        UserInputError: The data set has no such class.
    """
    count = len(dataset.class_names)
    if max(classes) >= count:
        what = f"{dataset.name} has the classes 0-{count - 1}."
        raise UserInputError(Fault("classes", format_classes(classes), what, "Choose some of these."))
    new_label = torch.full((count,), -1)
    new_label[list(classes)] = torch.arange(len(classes))
    labels = new_label[images.labels]
    indices = (labels >= 0).nonzero().flatten()
    return Examples(images, indices, labels[indices])


def folds_digest(examples: Examples, folds: list[Tensor]) -> str:
    """Return a digest of the images and of the fold that each is in."""
    digest = hashlib.sha256(examples.digest.encode())
    for fold in folds:
        digest.update(tensor_bytes(fold))
    return digest.hexdigest()[:32]


def check_batch(split: Split, batch_size: int) -> None:
    """Reject a batch that is larger than the training set.

    Raises:
        UserInputError: With the number of training images.
    """
    count = len(split.train)
    if batch_size > count:
        what = f"must be at most the number of training images, {count}."
        raise UserInputError(Fault("batch_size", batch_size, what, f"Choose a value in [1, {count}]."))
