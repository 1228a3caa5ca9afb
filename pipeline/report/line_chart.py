"""Curves over epochs or time, with bands over seeds and the name of each curve beside its end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.chart_frame import (
    BOTTOM,
    SMALL,
    TOP,
    WIDTH,
    ChartText,
    SeriesStyle,
    label_log_ticks,
    new_chart,
    rendered,
)
from pipeline.report.elements import Chart

CURVES_HEIGHT = 1.75
LABEL_WIDTH = 1.25  # of the names beside curves
LABEL_GAP = 0.26  # between them
LABEL_LETTERS = 19  # per line


@dataclass(frozen=True)
class Series:
    """A curve with its band."""

    label: str  # beside its end
    style: SeriesStyle  # of its arm
    x: Sequence[float]  # at least as long as the shortest curve
    curves: tuple[Sequence[float], ...]  # one per seed; drawn up to the length of the shortest
    faint: bool = False  # draw as the less important of two curves with the same style


def line_chart(
    text: ChartText, series: Sequence[Series], *, log: bool = False, threshold: float | None = None,
    top: float | None = None,
) -> Chart:  # fmt: skip
    """Draw at least one curve: the mean over seeds, with the range over seeds as a band.

    The y axis is logarithmic with `log`, else it ends at `top`; `threshold` is the y of a horizontal line.
    """
    body = max(CURVES_HEIGHT, LABEL_GAP * len(series))
    figure, axes = new_chart(text, TOP + body + BOTTOM, body, width=WIDTH + LABEL_WIDTH, right=LABEL_WIDTH)
    for one in series:
        _draw_curve(axes, one)
    if threshold is not None:
        axes.axhline(threshold, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
    if log:
        axes.set_yscale("log")
        label_log_ticks(axes.yaxis)
    elif top is not None:
        axes.set_ylim(_bottom(series, top), top)
    if text.xlabel == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25, linewidth=0.6)
    _label_ends(axes, series, LABEL_GAP / body)
    return rendered(text, figure)


def _label_ends(axes: Axes, series: Sequence[Series], gap: float) -> None:
    """Write the name of each curve beside its end, spread so that no two overlap; `gap` is in axes heights."""
    lengths = [min(map(len, one.curves)) for one in series]
    points = [
        (one.x[length - 1], fmean(curve[length - 1] for curve in one.curves))
        for one, length in zip(series, lengths, strict=True)
    ]
    ends = axes.transAxes.inverted().transform(axes.transData.transform(points))[:, 1]
    order = sorted(range(len(series)), key=lambda number: float(ends[number]))
    heights = spread_heights([float(ends[number]) for number in order], gap)
    for number, height in zip(order, heights, strict=True):
        axes.annotate(
            textwrap.fill(textwrap.shorten(series[number].label, 2 * LABEL_LETTERS, placeholder="..."), LABEL_LETTERS),
            (1.0, height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=SMALL, color=series[number].style.color, annotation_clip=False,
            style="italic" if series[number].faint else "normal", linespacing=0.95,
        )  # fmt: skip


def spread_heights(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights in [0, 1], moved as little as needed to lie `gap` apart."""
    spread: list[float] = []
    for height in heights:
        spread.append(max(min(max(height, 0.0), 1.0), spread[-1] + gap if spread else 0.0))
    for number in reversed(range(len(spread))):
        above = spread[number + 1] - gap if number + 1 < len(spread) else 1.0
        spread[number] = min(spread[number], above)
    return spread


def _draw_curve(axes: Axes, one: Series) -> None:
    length = min(map(len, one.curves))
    values = np.array([curve[:length] for curve in one.curves], dtype=float)
    line, width, alpha = (":", 1.1, 0.9) if one.faint else (one.style.line, 1.4, 1.0)
    marker = one.style.marker if length < 3 else None
    axes.plot(
        one.x[:length], values.mean(0), color=one.style.color, linestyle=line, linewidth=width, alpha=alpha,
        marker=marker, markersize=3,
    )  # fmt: skip
    if len(one.curves) > 1 and not one.faint:
        axes.fill_between(one.x[:length], values.min(0), values.max(0), color=one.style.color, alpha=0.16, linewidth=0)


def _bottom(series: Sequence[Series], top: float) -> float:
    """Return a lower end of the y axis that cuts off the steep first tenth of the curves."""
    tails = [min(curve[min(len(curve) - 1, max(1, len(curve) // 10)) :]) for one in series for curve in one.curves]
    return min(tails) - 0.12 * (top - min(tails)) - 1e-3
