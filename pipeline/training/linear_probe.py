"""Linear probe: cross-validated accuracy of solved heads on the features after one block.

Each fold is scored once, by a head that was not fit on it: the next fold selects l2 for a head fit on the others, then
the head is solved again with that l2 on all folds but the scored one.

Legend: N images, D units.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from pipeline.errors import Fault, UserInputError
from pipeline.training.convex_head import L2_GRID, TOLERANCE, solve_at, solve_head
from pipeline.training.feature_checks import feature_faults, label_faults

MIN_FOLDS = 3  # one to score, one to select l2, one to train


@dataclass(frozen=True)
class FoldResult:
    """Result of one fold.

    Attributes:
        accuracy: Accuracy on the images of the fold.
        l2: L2 penalty selected on the next fold.
        at_grid_edge: Whether `l2` is the smallest or largest of the grid.
        converged: Whether all solves reached the tolerance.
    """

    accuracy: float
    l2: float
    at_grid_edge: bool
    converged: bool


@dataclass(frozen=True)
class ProbeResult:
    """Cross-validated accuracy, with an approximate interval.

    Attributes:
        folds: One result per fold.
        images: Number of images.
        seconds: Wall-clock time of all solves.
    """

    folds: tuple[FoldResult, ...]
    images: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the folds."""
        return sum(fold.accuracy for fold in self.folds) / len(self.folds)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return a confidence interval of the accuracy, clipped to [0, 1].

        Covers the sampling of training and scored images, given the features, but not the base or its seed. Folds share
        training images, so the variance of their mean is s^2 (1 / k + 1 / (k - 1)) instead of s^2 / k.

        Source: Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52, 239-281
        (corrected resampled t-test; an approximation, since no unbiased variance estimate exists for cross-validation).
        """
        count = len(self.folds)
        variance = sum((fold.accuracy - self.accuracy) ** 2 for fold in self.folds) / (count - 1)
        quantile = float(stdtrit(count - 1, (1 + level) / 2))
        half_width = quantile * math.sqrt(variance * (1 / count + 1 / (count - 1)))
        return max(0.0, self.accuracy - half_width), min(1.0, self.accuracy + half_width)

    @property
    def converged(self) -> bool:
        """Whether all solves reached the tolerance."""
        return all(fold.converged for fold in self.folds)


def cross_validated_accuracy(
    features: Tensor,
    labels: Tensor,
    folds: Sequence[Tensor],
    *,
    l2_grid: tuple[float, ...] = L2_GRID,
    tolerance: float = TOLERANCE,
) -> ProbeResult:
    """Solve a head per fold, and score it on that fold.

    Args:
        features: Floating point (N, D).
        labels: int64 (N,), 0 to K-1.
        folds: Rows, int64, of at least three folds that partition the images, as from `stratified_folds`; use the same
            folds for every cut of a comparison. No two neighboring folds contain all images of a class.
        l2_grid: As for `solve_head`.
        tolerance: As for `solve_head`.

    Raises:
        UserInputError: There are too few folds, they overlap or leave out images, or as for `solve_head`.
    """
    _check(features, labels, folds)
    began = time.perf_counter()
    results = []
    for number, scored in enumerate(folds):
        validation = folds[(number + 1) % len(folds)]
        training = _rows_outside(len(labels), scored, validation)
        choice = solve_head(
            features[training],
            labels[training],
            features[validation],
            validation_labels=labels[validation],
            l2_grid=l2_grid,
            tolerance=tolerance,
        )
        rest = _rows_outside(len(labels), scored)
        head = solve_at(features[rest], labels[rest], l2=choice.chosen.l2, tolerance=tolerance)
        accuracy = float((head.predict(features[scored]) == labels[scored].cpu()).double().mean())
        results.append(FoldResult(accuracy, choice.chosen.l2, choice.at_grid_edge, choice.converged and head.converged))
    return ProbeResult(tuple(results), len(labels), time.perf_counter() - began)


def _rows_outside(count: int, *excluded: Tensor) -> Tensor:
    """Return the rows below `count` that are in none of the folds, ascending."""
    outside = torch.ones(count, dtype=torch.bool)
    outside[torch.cat(excluded)] = False
    return outside.nonzero().flatten()


def _check(features: Tensor, labels: Tensor, folds: Sequence[Tensor]) -> None:
    faults = feature_faults("features", features, labels) or label_faults(labels)
    if len(folds) < MIN_FOLDS:
        faults.append(
            Fault("folds", len(folds), f"must be at least {MIN_FOLDS}.", "One is scored, one selects l2, one trains.")
        )
    elif not torch.equal(torch.cat(list(folds)).sort().values, torch.arange(len(labels))) or not all(map(len, folds)):
        what = f"must be disjoint, not empty, and cover all {len(labels)} images."
        faults.append(Fault("folds", [len(fold) for fold in folds], what, "Create them with stratified_folds."))
    if faults:
        raise UserInputError(*faults)
