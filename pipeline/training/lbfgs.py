"""L-BFGS with backtracking, for smooth, strictly convex functions with a Hessian close to the identity.

SciPy's L-BFGS-B also supports bounds, which take most of its time on problems with a few hundred variables.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed. (2006), algorithms 7.4, 7.5 and 3.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

HISTORY = 10  # pairs of steps and gradient changes
SUFFICIENT_DECREASE = 1e-4
ROUNDING = 1e-14  # relative tolerance: an increase of the value within it counts as a decrease
MAX_HALVINGS = 40

Objective = Callable[[Tensor], tuple[float, Tensor]]  # point (n,) -> value, gradient (n,)


@dataclass(frozen=True)
class Minimum:
    """The final point (n,) and the gradient (n,) there."""

    point: Tensor
    gradient: Tensor
    iterations: int


def minimize(
    objective: Objective, start: Tensor, *, is_converged: Callable[[Tensor], bool], max_iterations: int
) -> Minimum:
    """Minimize `objective` from `start` (n,), float64, until `is_converged(gradient)`.

    Also stops at `max_iterations`, or if no step along the search direction decreases the value.
    """
    point, (value, gradient) = start, objective(start)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=HISTORY)
    iterations = 0
    while iterations < max_iterations and not is_converged(gradient):
        accepted = _line_search(objective, point, value, gradient=gradient, direction=_direction(gradient, pairs))
        if accepted is None:
            break
        step, value, new_gradient = accepted
        change = new_gradient - gradient
        if (curvature := float(step @ change)) > 0:  # close to the minimum, rounding can make it 0 or negative
            pairs.append((step, change, curvature))
        point, gradient = point + step, new_gradient
        iterations += 1
    return Minimum(point, gradient, iterations)


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Return minus the approximate inverse Hessian times the gradient (two-loop recursion)."""
    direction = -gradient
    factors = []
    for step, change, curvature in reversed(pairs):
        factors.append(float(step @ direction) / curvature)
        direction.sub_(change, alpha=factors[-1])
    if pairs:
        _, change, curvature = pairs[-1]
        direction *= curvature / float(change @ change)
    for (step, change, curvature), factor in zip(pairs, reversed(factors), strict=True):
        direction.add_(step, alpha=factor - float(change @ direction) / curvature)
    return direction


def _line_search(
    objective: Objective, point: Tensor, value: float, *, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, float, Tensor] | None:
    """Halve the step until the value decreases sufficiently; return step, new value and new gradient."""
    slope = float(gradient @ direction)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        step = length * direction
        new_value, new_gradient = objective(point + step)
        if new_value <= value + SUFFICIENT_DECREASE * length * slope + ROUNDING * abs(value):
            return step, new_value, new_gradient
        length /= 2
    return None
