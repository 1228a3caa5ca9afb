"""Estimates as text, the same in sentences, tables and text alternatives."""

from __future__ import annotations

import math

from pipeline.statistics.estimates import Estimate


def estimate_text(estimate: Estimate, digits: int, *, unit: str = "", sign: bool = False) -> str:
    """Return a mean with the half width of its interval, `94.71 +- 0.35`, then the unit."""
    mean = f"{estimate.mean:{'+' if sign else ''}.{digits}f}"
    if math.isnan(estimate.half_width):
        return f"{mean}{unit} (1 seed)"
    return f"{mean} +- {estimate.half_width:.{digits}f}{unit}"


def interval_text(estimate: Estimate, digits: int, *, sign: bool = False) -> str:
    """Return `95 % CI 1.21 to 2.79`, or `1 seed`."""
    if math.isnan(estimate.lower):
        return "1 seed"
    lower, upper = (f"{end:{'+' if sign else ''}.{digits}f}" for end in (estimate.lower, estimate.upper))
    return f"95 % CI {lower} to {upper}"


def ratio_text(ratio: Estimate, words: tuple[str, str] | None = None) -> str:
    """Return a ratio with its interval, such as `1.60x faster (95 % CI 1.51 to 1.70)`.

    `words` describe a ratio above and below one, which is then inverted; without them it is `ratio 0.63`.
    """
    if words is None:
        return f"ratio {ratio.mean:.2f} ({interval_text(ratio, 2)})"
    if ratio.mean >= 1:
        return f"{ratio.mean:.2f}x {words[0]} ({interval_text(ratio, 2)})"
    inverse = Estimate(1 / ratio.mean, ratio.deviation, 1 / ratio.upper, 1 / ratio.lower, ratio.count)
    return f"{inverse.mean:.2f}x {words[1]} ({interval_text(inverse, 2)})"


def p_text(p_value: float) -> str:
    """Return a p value, such as `0.032` or `< 0.001`; `-` for none."""
    if math.isnan(p_value):
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def seeds_text(count: int) -> str:
    """Return `1 seed` or `3 seeds`."""
    return f"{count} seed{'s' if count != 1 else ''}"
