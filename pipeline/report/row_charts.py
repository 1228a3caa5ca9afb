"""Charts with one row per arm: markers or bars with intervals, and a tick per seed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.chart_frame import BOTTOM, TINY, TOP, ChartText, SeriesStyle, new_chart, rendered
from pipeline.report.elements import Chart
from pipeline.report.number_text import estimate_text
from pipeline.statistics.estimates import Estimate, estimate

ROW_HEIGHT = 0.33


@dataclass(frozen=True)
class Row:
    """One arm in a chart of markers or bars."""

    label: str  # above the marker
    style: SeriesStyle  # of the arm
    values: Sequence[float]  # one per seed, drawn as ticks
    hollow: Estimate | None = None  # mean of a second quantity, drawn as a hollow marker
    bounds: tuple[float, float] = (-math.inf, math.inf)  # smallest and largest possible value

    @cached_property
    def mean(self) -> Estimate:
        """Mean and interval, which ends at the bounds."""
        return estimate(self.values, bounds=self.bounds)

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the drawn interval; the mean for one seed."""
        return (self.mean.lower, self.mean.upper) if self.mean.count > 1 else (self.mean.mean, self.mean.mean)

    @property
    def error_bar(self) -> list[list[float]] | None:
        """Lengths of the interval to both sides, as matplotlib wants them; None for one seed."""
        lower, upper = self.ends
        return [[self.mean.mean - lower], [upper - self.mean.mean]] if self.mean.count > 1 else None


def rows_text(rows: Sequence[Row]) -> str:
    """Return the numbers of rows for a text alternative."""
    return "; ".join(
        f"{row.label} {estimate_text(row.mean, 2)}" + (f" (hollow: {row.hollow.mean:.2f})" if row.hollow else "")
        for row in rows
    )


def point_chart(
    text: ChartText, rows: Sequence[Row], *, bounded: bool = False, zero: bool = False, connected: bool = False
) -> Chart:
    """Draw each arm's mean as a marker with its interval, and its seeds as ticks.

    Values of a `bounded` quantity cannot exceed 100; `zero` marks zero with a line; `connected` joins the two markers
    of a row.
    """
    figure, axes = _row_chart(text, rows)
    ends: list[float] = [0.0] if zero else []
    for y, row in enumerate(rows):
        ends += _draw_point(axes, y, row, connected=connected)
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    exceeds = bounded and high + margin > 100
    axes.set_xlim(low - margin, max(100, high) + 0.4 * margin if exceeds else high + margin)
    if zero:
        axes.axvline(0, color="#555555", linewidth=0.9)
    return rendered(text, figure)


def _draw_point(axes: Axes, y: int, row: Row, *, connected: bool) -> list[float]:
    """Draw a row and return the x values that it has to show."""
    mean, style = row.mean.mean, row.style
    axes.plot(row.values, [y + 0.16] * len(row.values), "|", color=style.color, alpha=0.7, markersize=3.5)
    axes.errorbar(
        mean, y, xerr=row.error_bar, fmt=style.marker, color=style.color, markersize=4.2, capsize=2.5, elinewidth=1.3
    )
    ends = [*row.ends, *row.values]
    if row.hollow is not None:
        if connected:
            axes.plot([mean, row.hollow.mean], [y, y], color=style.color, linewidth=0.8, alpha=0.6)
        axes.plot(row.hollow.mean, y, style.marker, markersize=5.6, markerfacecolor="none", color=style.color)
        ends.append(row.hollow.mean)
    return ends


def bar_chart(text: ChartText, rows: Sequence[Row]) -> Chart:
    """Draw each arm's mean as a bar from zero with its interval, and its seeds as ticks; values are not negative."""
    figure, axes = _row_chart(text, rows)
    highest = 0.0
    for y, row in enumerate(rows):
        mean, color = row.mean.mean, row.style.color
        axes.barh(y, mean, 0.3, color=color, alpha=0.75)
        axes.plot(row.values, [y + 0.25] * len(row.values), "|", color=color, alpha=0.7, markersize=3.5)
        axes.errorbar(mean, y, xerr=row.error_bar, color="#222222", elinewidth=1, capsize=2.5, fmt="none")
        highest = max(highest, *row.ends, *row.values)
    axes.set_xlim(0, 1.05 * highest or 1.0)
    return rendered(text, figure)


def _row_chart(text: ChartText, rows: Sequence[Row]) -> tuple[Figure, Axes]:
    """Return a figure with one labelled line per row, y = 0, 1, ... from the top."""
    body = ROW_HEIGHT * len(rows) + 0.06
    below = BOTTOM + 0.12 * text.xlabel.count("\n")
    figure, axes = new_chart(text, TOP + body + below, body, left=0.14)
    axes.set_ylim(len(rows) - 0.62, -0.62)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for y, row in enumerate(rows):
        label = textwrap.shorten(row.label, 60, placeholder="...")
        axes.text(0.0, y - 0.2, label, fontsize=TINY, va="bottom", transform=axes.get_yaxis_transform())
    return figure, axes
