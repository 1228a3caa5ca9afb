"""Seeded, stratified splits by identity: equal images stay together, and adding an image moves few others."""

import torch
from torch import Tensor

from pipeline.data.identity import ranks
from pipeline.data.records import Images
from pipeline.errors import Fault, UserInputError

TEST_FRACTION = 0.2  # for sources without an official test split
TEST_SEED = 20_210_702  # fixed: the test split never depends on the seed of a run
MAX_RANK = 2**63
MIN_TRAINING_IMAGES = 2  # per class: one each for training and validation


def ranked_rows(labels: Tensor, ids: Tensor, seed: int, *, purpose: str) -> list[tuple[int, Tensor]]:
    """Return the rows of each label, sorted by the pseudo-random rank of their identities."""
    order = ranks(ids, seed, purpose)
    result = []
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero().flatten()
        result.append((label, rows[order[rows].argsort(stable=True)]))
    return result


def stratified_split(
    labels: Tensor, ids: Tensor, fraction: float, *, seed: int, purpose: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Split rows in two, stratified by label.

    Args:
        labels: int64 (N,).
        ids: int64 (N,), identities of the images; equal ones stay together.
        fraction: Fraction of the second split, in (0, 1).
        seed: Seed of the ranking.
        purpose: Makes splits for different purposes independent.

    Returns:
        Ascending rows of both splits; every label is in both.

    Raises:
        UserInputError: A class is too small to be in both.
    """
    chosen = [
        rows[: max(1, round(fraction * len(rows)))] for _, rows in ranked_rows(labels, ids, seed, purpose=purpose)
    ]
    in_second = torch.isin(ids, ids[torch.cat(chosen)])
    for label in torch.unique(labels).tolist():
        if bool(in_second[labels == label].all()):
            count = int((labels == label).sum())
            what = f"leaves no training image of class {label}, which has {count} images."
            raise UserInputError(Fault("val_fraction", fraction, what, "Choose a smaller value."))
    return (~in_second).nonzero().flatten(), in_second.nonzero().flatten()


def split_test(images: Images) -> tuple[Images, Images]:
    """Split the images of a source without an official test split, independent of any seed."""
    first, second = (
        Images(images.pixels[rows], images.labels[rows], images.ids[rows])
        for rows in test_rows(images.labels, images.ids)
    )
    return first, second


def test_rows(labels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return ascending rows of the training and test images of a source without an official test split.

    The rank of an image decides, so that it stays in its split when others are added. If a class has no test image, its
    lowest-ranked image becomes one; if it has fewer than two training images, its highest-ranked test images move back.
    """
    order = ranks(ids, TEST_SEED, "test")
    in_test = order < int(TEST_FRACTION * MAX_RANK)
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero().flatten()
        rows = rows[order[rows].argsort(stable=True)]
        if not bool(in_test[rows].any()):
            in_test[ids == ids[rows[0]]] = True
        tested = list(dict.fromkeys(ids[rows[in_test[rows]]].tolist()))
        missing = MIN_TRAINING_IMAGES - len(torch.unique(ids[rows[~in_test[rows]]]))
        for identity in tested[max(1, len(tested) - max(0, missing)) :]:
            in_test[ids == identity] = False
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def stratified_folds(labels: Tensor, ids: Tensor, *, folds: int, seed: int) -> list[Tensor]:
    """Return ascending rows of each of `folds` stratified folds, which partition the images; equal images share a fold.

    Raises:
        UserInputError: `folds` is below 2 or above the size of the smallest class.
    """
    limit = max_folds(labels, ids)
    if not 2 <= folds <= limit:
        raise UserInputError(Fault("folds", folds, f"must be in [2, {limit}], the size of the smallest class."))
    distinct, which = torch.unique(ids, return_inverse=True)
    fold_of = torch.full((len(distinct),), -1)
    offset = 0
    for _, rows in ranked_rows(labels, ids, seed, purpose="folds"):
        new = torch.tensor(list(dict.fromkeys(which[rows].tolist())))  # in rank order
        new = new[fold_of[new] < 0]
        for number, piece in enumerate(new.tensor_split(folds)):
            fold_of[piece] = (number + offset) % folds
        offset += len(new) % folds  # rotates which folds get the larger pieces
    return [(fold_of[which] == number).nonzero().flatten() for number in range(folds)]


def max_folds(labels: Tensor, ids: Tensor) -> int:
    """Return the number of distinct images in the smallest class."""
    return min(len(torch.unique(ids[labels == label])) for label in torch.unique(labels))
