"""LogME: evidence of the labels given the features, without training a head.

Each class is a regression of its indicator y (N,) on features F (N, D), without intercept:

    w ~ Normal(0, I / alpha),  y ~ Normal(F w, I / beta),  so  y ~ Normal(0, I / beta + F F^T / alpha)

LogME is the log marginal likelihood per image, maximized over alpha and beta and averaged over the classes. It ranks
cuts or bases for the same labels; its absolute value has no meaning. Use it as a hint next to the accuracy of solved
heads: which score ranks best depends on the setup (Agostinelli et al. (2022), arXiv 2204.01403).

Source: You et al. (2021), LogME: Practical Assessment of Pre-trained Models for Transfer Learning, arXiv 2102.11005.
The paper iterates alpha and beta to a fixed point. Here the best beta for t = alpha / beta has a closed form, and a
grid search over log t finds the maximum.

Legend: N images, D units, R eigenvalues, K classes, T values of t.
"""  # fmt: skip

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.errors import Fault, UserInputError
from pipeline.training.feature_checks import feature_faults, label_faults
from pipeline.training.standardization import ROWS

LOG10_RANGE = 8.0  # t is searched from 1e-8 to 1e8 times the mean eigenvalue of F F^T
POINTS = 33  # grid points; each refinement covers two intervals of the previous grid
REFINEMENTS = 4  # down to a factor of 1 + 1e-4 in t


def logme(features: Tensor, labels: Tensor) -> float:
    """Return the LogME score in nats per image; larger is better.

    Args:
        features: Floating point (N, D), the inputs of the head.
        labels: int64 (N,), 0 to K-1; every class occurs.

    Raises:
        UserInputError: Wrong shapes, features that are not finite or all 0, or a class without images.
    """
    faults = feature_faults("features", features, labels) or label_faults(labels)
    if not faults and not features.any():
        faults.append(Fault("features", None, "all are 0.", "Choose another cut."))
    if faults:
        raise UserInputError(*faults)
    indicators = torch.nn.functional.one_hot(labels.cpu()).double()
    eigenvalues, projections = _spectrum(features, indicators)
    residuals = (indicators.sum(0) - projections.sum(0)).clamp(min=0)
    return float(_maximum(eigenvalues, projections, residuals, images=len(labels)).mean()) / len(labels)


def _spectrum(features: Tensor, indicators: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nonzero eigenvalues (R,) of F F^T, and the squared projections (R, K) of y on their eigenvectors."""
    units = features.shape[1]
    if len(features) <= units:
        values = features.cpu().double()
        eigenvalues, vectors = torch.linalg.eigh(values @ values.T)
        nonzero = eigenvalues > _rank_tolerance(eigenvalues)
        return eigenvalues[nonzero], (vectors[:, nonzero].T @ indicators).square()
    gram, products = torch.zeros(units, units, dtype=torch.float64), torch.zeros(units, indicators.shape[1]).double()
    for rows, targets in zip(features.split(ROWS), indicators.split(ROWS), strict=True):
        values = rows.cpu().double()
        gram += values.T @ values
        products += values.T @ targets
    eigenvalues, vectors = torch.linalg.eigh(gram)
    nonzero = eigenvalues > _rank_tolerance(eigenvalues)
    return eigenvalues[nonzero], (vectors[:, nonzero].T @ products).square() / eigenvalues[nonzero, None]


def _rank_tolerance(eigenvalues: Tensor) -> float:
    return float(eigenvalues[-1]) * len(eigenvalues) * torch.finfo(torch.float64).eps


def _maximum(eigenvalues: Tensor, projections: Tensor, residuals: Tensor, *, images: int) -> Tensor:
    """Return the largest log evidence of each class, (K,), by grid search over log t, refined around the maximum."""
    center = torch.full_like(residuals, float(eigenvalues.mean().log10()))
    width = LOG10_RANGE
    for _ in range(1 + REFINEMENTS):
        offsets = torch.linspace(-width, width, POINTS, dtype=torch.float64)
        grid = center + offsets[:, None]  # (T, K)
        evidence = torch.stack(
            [_log_evidence(10**row, eigenvalues, projections, residuals=residuals, images=images) for row in grid]
        )
        best = evidence.max(0)
        center = grid.gather(0, best.indices[None])[0]
        width *= 2 / (POINTS - 1)
    return best.values


def _log_evidence(ratio: Tensor, eigenvalues: Tensor, projections: Tensor, *, residuals: Tensor, images: int) -> Tensor:
    """Return the log evidence (K,) at t = `ratio` (K,) and the optimal beta.

    The eigenvalues of I + F F^T / t are 1 + eigenvalue / t, and 1 in the directions of the residual.
    """
    factors = 1 + eigenvalues[:, None] / ratio
    mismatch = (projections / factors).sum(0) + residuals
    log_beta = math.log(images) - mismatch.log()
    return (images * (log_beta - math.log(2 * math.pi) - 1) - factors.log().sum(0)) / 2
