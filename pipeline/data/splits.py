"""How images are split: classes, validation, labels per class, folds; all stratified, all seeded.

Every part remembers which images of the official training (or test) part it holds, and has a digest of its
content, so that two runs can be shown to have used the same images, or a draw to overlap another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.sources import Dataset, Images
from pipeline.errors import Fault, UserInputError
from pipeline.params import format_classes
from pipeline.runtime import generator, tensor_bytes

VAL_PER_CLASS = 30  # images a class for validation where labels are few


@dataclass(frozen=True)
class Examples:
    """Images of the chosen classes.

    Attributes:
        pixels: uint8 (N, C, H, W), 0-255.
        labels: int64 (N,), 0 to K-1: the position of the image's class among the chosen ones.
        indices: int64 (N,), each image's place in the official part it comes from.
    """

    pixels: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, places: Tensor) -> Examples:
        """Return the examples at some places (M,)."""
        return Examples(self.pixels[places], self.labels[places], self.indices[places])

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over shapes, pixels and labels."""
        digest = hashlib.sha256(str((tuple(self.pixels.shape), tuple(self.labels.shape))).encode())
        digest.update(tensor_bytes(self.pixels))
        digest.update(tensor_bytes(self.labels))
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Split:
    """What one experiment sees.

    Attributes:
        dataset: The data set's resolved name.
        source: Where its files lie.
        note: How it was chosen, in words.
        classes: The chosen class numbers; output k of a network stands for `classes[k]`.
        class_names: Their names.
        train: What is trained on.
        validation: What chooses the epoch.
        test: What only the final evaluation reads.
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
        """The chosen classes in their canonical spelling, such as `0-4`."""
        return format_classes(self.classes)

    @property
    def digest(self) -> str:
        """One digest over the three parts."""
        parts = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width


def split_for_base(dataset: Dataset, classes: tuple[int, ...], *, val_fraction: float, seed: int) -> Split:
    """Return all images of some classes, a stratified share of the training part held back for validation.

    Raises:
        UserInputError: A class does not exist, or the share leaves a class without images on either side.
    """
    chosen = choose_classes(dataset.train, classes, dataset)
    kept, held_back = stratified_cut(chosen.labels, val_fraction, seed, "validation")
    return _split(dataset, classes, chosen.take(kept), chosen.take(held_back))


def split_for_target(
    dataset: Dataset,
    classes: tuple[int, ...],
    *,
    per_class: int | Literal["all"],
    val_per_class: int | Literal["auto"],
    val_fraction: float,
    seed: int,
) -> Split:
    """Return some labels a class to train on and others for validation, stratified and drawn with a seed.

    Validation is drawn first, so that with one seed a larger draw contains a smaller one and both share validation.

    Args:
        dataset: Where from.
        classes: The target classes.
        per_class: Labels a class to train on; `all` takes what validation leaves.
        val_per_class: Images a class for validation; `auto` is 30, or `val_fraction` of them with all labels.
        val_fraction: See `val_per_class`.
        seed: Which images are drawn.

    Raises:
        UserInputError: A class does not exist or has too few images; says how many there are.
    """
    chosen = choose_classes(dataset.train, classes, dataset)
    train, validation = [], []
    for label, places in _shuffled_places(chosen.labels, seed, "validation"):
        held = VAL_PER_CLASS if per_class != "all" else max(1, round(val_fraction * len(places)))
        held = held if val_per_class == "auto" else val_per_class
        drawn = len(places) - held if per_class == "all" else per_class
        if drawn < 1 or held + drawn > len(places):
            raise UserInputError(
                Fault(
                    "per_class",
                    per_class,
                    f"class {classes[label]} of {dataset.name} has {len(places)} training images, and {held} are "
                    f"for validation: at most {max(0, len(places) - held)} are left.",
                    "Choose per_class or val_per_class smaller.",
                )
            )
        validation.append(places[:held])
        train.append(places[held : held + drawn])
    return _split(dataset, classes, *(chosen.take(torch.cat(part).sort().values) for part in (train, validation)))


def split_as_drawn(dataset: Dataset, classes: tuple[int, ...], train: Tensor, validation: Tensor) -> Split:
    """Return a split that an earlier stage drew, by the images' places in the official training part.

    Raises:
        UserInputError: The places are not ones of these classes in this data set.
    """
    chosen = choose_classes(dataset.train, classes, dataset)
    parts = []
    for indices in (train.long(), validation.long()):
        places = torch.searchsorted(chosen.indices, indices).clamp(max=len(chosen) - 1)
        if not torch.equal(chosen.indices[places], indices):
            raise UserInputError(
                Fault("base", None, f"its draw of labels does not fit {dataset.name}.", "Give per_class for a new one.")
            )
        parts.append(chosen.take(places))
    return _split(dataset, classes, *parts)


def _split(dataset: Dataset, classes: tuple[int, ...], train: Examples, validation: Examples) -> Split:
    names = tuple(dataset.class_names[number] for number in classes)
    test = choose_classes(dataset.test, classes, dataset)
    return Split(dataset.name, dataset.source, dataset.note, classes, names, train, validation, test)


def choose_classes(images: Images, classes: tuple[int, ...], dataset: Dataset) -> Examples:
    """Return the images of some classes, relabelled 0 to K-1 in the order given.

    Raises:
        UserInputError: The data set has no such class.
    """
    count = len(dataset.class_names)
    if max(classes) >= count:
        raise UserInputError(
            Fault(
                "classes",
                format_classes(classes),
                f"{dataset.name} has the classes 0-{count - 1}.",
                "Choose among these.",
            )
        )
    new_label = torch.full((count,), -1)
    new_label[list(classes)] = torch.arange(len(classes))
    labels = new_label[images.labels]
    places = (labels >= 0).nonzero().flatten()
    return Examples(images.pixels[places], labels[places], places)


def stratified_cut(labels: Tensor, fraction: float, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Cut off a share of every class.

    Args:
        labels: int64 (N,).
        fraction: The share to cut off, in (0, 1).
        seed: Which images are cut off.
        purpose: Keeps cuts for different purposes independent.

    Returns:
        The places that stay and the places cut off, each sorted; every class is in both.

    Raises:
        UserInputError: A class is too small to be in both.
    """
    kept, cut = [], []
    for label, places in _shuffled_places(labels, seed, purpose):
        size = max(1, round(fraction * len(places)))
        if size >= len(places):
            raise UserInputError(
                Fault(
                    "val_fraction",
                    fraction,
                    f"leaves nothing to train on of class {label}, which has {len(places)} images.",
                    "Choose less.",
                )
            )
        cut.append(places[:size])
        kept.append(places[size:])
    return torch.cat(kept).sort().values, torch.cat(cut).sort().values


def _shuffled_places(labels: Tensor, seed: int, purpose: str) -> list[tuple[int, Tensor]]:
    """Return, for each label in turn, the places that carry it, in an order drawn for that label alone."""
    found = []
    for label in torch.unique(labels).tolist():
        places = (labels == label).nonzero().flatten()
        found.append((label, places[torch.randperm(len(places), generator=generator(seed, purpose, label))]))
    return found


def folds_digest(examples: Examples, folds: list[Tensor]) -> str:
    """Return a digest of a cut: of the images and of which fold each is in."""
    digest = hashlib.sha256(examples.digest.encode())
    for fold in folds:
        digest.update(tensor_bytes(fold))
    return digest.hexdigest()[:32]


def check_batch(split: Split, batch_size: int) -> None:
    """Refuse a batch that is larger than the training data.

    Raises:
        UserInputError: Says how many images there are.
    """
    if batch_size > len(split.train):
        raise UserInputError(
            Fault("batch_size", batch_size, f"there are {len(split.train)} images to train on.", "Choose at most that.")
        )


def cut_folds(labels: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Return the places of each of `folds` stratified, disjoint parts that cover everything, each sorted.

    Raises:
        UserInputError: `folds` is below 2 or above the size of the smallest class.
    """
    smallest = int(torch.bincount(labels).min())
    if not 2 <= folds <= smallest:
        raise UserInputError(Fault("folds", folds, f"must be from 2 to the size of the smallest class, {smallest}."))
    parts: list[list[Tensor]] = [[] for _ in range(folds)]
    offset = 0
    for _, places in _shuffled_places(labels, seed, "folds"):
        for number, piece in enumerate(places.tensor_split(folds)):
            parts[(number + offset) % folds].append(piece)
        offset += len(places) % folds  # the longer pieces go to other folds for the next class
    return [torch.cat(part).sort().values for part in parts]
