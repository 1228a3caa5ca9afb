"""Seeded, stratified cuts of a set of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.records import Images
from pipeline.errors import Fault, UserInputError
from pipeline.runtime import generator

TEST_FRACTION = 0.2  # for sources without an official test split
TEST_SEED = 20_210_702  # fixed: such a test split never depends on a run's seed


def shuffled_indices(labels: Tensor, seed: int, purpose: str) -> list[tuple[int, Tensor]]:
    """Return for each label its indices, shuffled independently of the other labels."""
    result = []
    for label in torch.unique(labels).tolist():
        indices = (labels == label).nonzero().flatten()
        result.append((label, indices[torch.randperm(len(indices), generator=generator(seed, purpose, label))]))
    return result


def stratified_cut(labels: Tensor, fraction: float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Split indices in two, stratified by label.

    Args:
        labels: int64 (N,).
        fraction: Share of the second part, in (0, 1).
        seed: Of the shuffle.
        purpose: Keeps cuts for different purposes independent.

    Returns:
        Sorted indices of both parts; every label is in both.

    Raises:
        UserInputError: A class is too small to be in both.
    """
    first, second = [], []
    for label, indices in shuffled_indices(labels, seed, purpose):
        size = max(1, round(fraction * len(indices)))
        if size >= len(indices):
            what = f"leaves no training image of class {label}, which has {len(indices)} images."
            raise UserInputError(Fault("val_fraction", fraction, what, "Choose a smaller value."))
        second.append(indices[:size])
        first.append(indices[size:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def cut_test(images: Images) -> tuple[Images, Images]:
    """Split the images of a source without an official test split, always in the same way."""
    train, test = stratified_cut(images.labels, TEST_FRACTION, seed=TEST_SEED, purpose="test")
    first, second = (Images(images.pixels[rows], images.labels[rows], images.ids[rows]) for rows in (train, test))
    return first, second


def cut_folds(labels: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Return sorted indices of `folds` stratified, disjoint folds that cover everything.

    Raises:
        UserInputError: `folds` is below 2 or above the size of the smallest class.
    """
    smallest = int(torch.bincount(labels).min())
    if not 2 <= folds <= smallest:
        raise UserInputError(Fault("folds", folds, f"must be in [2, {smallest}], the size of the smallest class."))
    parts: list[list[Tensor]] = [[] for _ in range(folds)]
    offset = 0
    for _, indices in shuffled_indices(labels, seed, "folds"):
        for number, piece in enumerate(indices.tensor_split(folds)):
            parts[(number + offset) % folds].append(piece)
        offset += len(indices) % folds  # the longer pieces go to other folds for the next class
    return [torch.cat(part).sort().values for part in parts]
