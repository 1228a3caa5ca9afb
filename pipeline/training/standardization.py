"""Standardize features and rotate them to their principal axes; fold both into the weights of a linear head.

Statistics are those of the training images. The rotation is orthogonal, so it changes neither an L2 penalty nor the
norm of a gradient. With fewer images than units, it also reduces the units to the subspace spanned by the images, which
contains the weights of an L2-penalized head.

Legend: N images, D units, U units that are not constant, R = min(N, U).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 4096  # images that are converted to float64 at a time
CONSTANT = 1e-5  # a unit with a smaller standard deviation (relative to its maximum) is constant up to rounding


@dataclass(frozen=True)
class Standardization:
    """Mean and standard deviation of the units that are not constant.

    Attributes:
        varying: bool (D,), False for constant units, which are dropped.
        mean: float64 (U,).
        deviation: float64 (U,), population standard deviation.
    """

    varying: Tensor
    mean: Tensor
    deviation: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Return standardized features, float64 (N, U), the largest buffer when solving a head."""
        result = torch.empty(len(features), len(self.mean), dtype=torch.float64)
        for rows, out in zip(features.split(ROWS), result.split(ROWS), strict=True):
            torch.div(_float64(rows)[:, self.varying] - self.mean, self.deviation, out=out)
        return result

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (K, D) and bias (K,) that give the same logits on unstandardized features.

        Args:
            weight: float64 (K, U), on standardized features.
            bias: float64 (K,).
        """
        scaled = weight / self.deviation
        folded = weight.new_zeros(len(weight), len(self.varying))
        folded[:, self.varying] = scaled
        return folded, bias - scaled @ self.mean


def measure(features: Tensor) -> Standardization:
    """Return mean and standard deviation of features (N, D), and which units vary."""
    chunks = features.split(ROWS)
    mean = sum((_float64(rows).sum(0) for rows in chunks), torch.zeros(())) / len(features)
    squares = sum(((_float64(rows) - mean).square().sum(0) for rows in chunks), torch.zeros(()))
    deviation = (squares / len(features)).sqrt()
    largest = torch.stack([rows.abs().amax(0) for rows in chunks]).amax(0)
    varying = deviation > CONSTANT * _float64(largest)
    return Standardization(varying, mean[varying], deviation[varying])


def rotate(standardized: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate standardized features (N, U) to their principal axes, in place if N >= U.

    Returns:
        The rotated features (N, R), with uncorrelated columns, and the axes (U, R), with orthonormal columns:
        rotated = standardized @ axes.
    """
    if len(standardized) < standardized.shape[1]:
        basis, coordinates = torch.linalg.qr(standardized.T)
        rotated, axes = rotate(coordinates.T.contiguous())
        return rotated, basis @ axes
    axes = torch.linalg.eigh(standardized.T @ standardized).eigenvectors
    for rows in standardized.split(ROWS):
        rows.copy_(rows @ axes)
    return standardized, axes


def _float64(values: Tensor) -> Tensor:
    return values.cpu().double()
