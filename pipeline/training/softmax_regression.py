"""L-BFGS for multinomial logistic regression with an L2 penalty, in float64.

    minimize  mean cross-entropy(values W + b) + l2 / 2 * ||W||^2,  b not penalized

The columns of `values` must have mean 0 and be uncorrelated (see `standardization`). Then the Hessian is close to
diagonal, and rescaling each row of W by the square root of its curvature makes L-BFGS insensitive to collinear
features. `convex_head` solves along a grid of l2.

Legend: N examples, R features, K classes.
"""  # fmt: skip

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.lbfgs import minimize

MAX_ITERATIONS = 5000  # per value of l2


@dataclass(frozen=True)
class Solution:
    """The minimizer for one value of l2.

    Attributes:
        parameters: float64 (R + 1, K): the rows of W, then b.
        iterations: L-BFGS iterations.
        gradient_norm: Euclidean norm of the gradient; the objective is within gradient_norm^2 / (2 l2) of its minimum
            over W.
        converged: Whether `gradient_norm` is at most the tolerance.
    """

    parameters: Tensor
    iterations: int
    gradient_norm: float
    converged: bool


class SoftmaxRegression:
    """Multinomial logistic regression on fixed data.

    Args:
        values: float64 (N, R); columns have mean 0 and are uncorrelated.
        labels: int64 (N,), 0 to K-1; every class occurs.
        classes: K.
    """

    def __init__(self, values: Tensor, labels: Tensor, classes: int):
        self.values, self.labels, self.classes = values, labels, classes
        self._variances = torch.linalg.vector_norm(values, dim=0).square() / len(values)  # allocates no (N, R)
        self._examples = torch.arange(len(labels))

    @property
    def zeros(self) -> Tensor:
        """Initial parameters: all classes have equal probability."""
        return self.values.new_zeros(self.values.shape[1] + 1, self.classes)

    def solve(self, start: Tensor, *, l2: float, tolerance: float, max_iterations: int = MAX_ITERATIONS) -> Solution:
        """Minimize the objective from `start` (R + 1, K) until the norm of its gradient is at most `tolerance`."""
        scale = self._scale(start, l2)

        def scaled_objective(point: Tensor) -> tuple[float, Tensor]:
            loss, gradient = self.objective(point.reshape(start.shape) * scale, l2)
            return loss, gradient.mul_(scale).flatten()

        def gradient_norm(scaled_gradient: Tensor) -> float:
            return float((scaled_gradient.reshape(start.shape) / scale).norm())

        end = minimize(
            scaled_objective,
            (start / scale).flatten(),
            is_converged=lambda gradient: gradient_norm(gradient) <= tolerance,
            max_iterations=max_iterations,
        )
        norm = gradient_norm(end.gradient)
        return Solution(end.point.reshape(start.shape) * scale, end.iterations, norm, norm <= tolerance)

    def objective(self, parameters: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return the objective and its gradient (R + 1, K) at `parameters` (R + 1, K)."""
        weight, bias = parameters[:-1], parameters[-1]
        log_probabilities = torch.log_softmax(torch.addmm(bias, self.values, weight), 1)
        loss = -log_probabilities[self._examples, self.labels].mean() + l2 / 2 * weight.square().sum()
        residuals = log_probabilities.exp_()
        residuals[self._examples, self.labels] -= 1
        residuals /= len(residuals)
        gradient = torch.empty_like(parameters)
        torch.addmm(weight, self.values.T, residuals, beta=l2, out=gradient[:-1])
        gradient[-1] = residuals.sum(0)
        return float(loss), gradient

    def _scale(self, parameters: Tensor, l2: float) -> Tensor:
        """Return 1 / sqrt(approximate curvature) for each row of the parameters, (R + 1, 1)."""
        probabilities = torch.softmax(torch.addmm(parameters[-1], self.values, parameters[:-1]), 1)
        curvature = (probabilities * (1 - probabilities)).mean().clamp(min=1e-3)
        rows = torch.cat([curvature * self._variances + l2, curvature[None]])
        return rows.rsqrt()[:, None]
