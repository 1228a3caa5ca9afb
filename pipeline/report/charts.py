"""Charts of a report: curves over epochs, markers and bars with intervals, heat maps, Pareto fronts.

Each chart is one small image with readable text, so that a page can place charts side by side, or below each other on
a phone. Margins are fixed in inches: a layout engine would take several times as long.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.report.elements import Chart
from pipeline.report.number_text import estimate_text
from pipeline.statistics.estimates import Estimate, estimate

WIDTH = 3.1  # inches, as all lengths here
CURVES_HEIGHT, FRONT_HEIGHT = 1.75, 1.6
LEFT, RIGHT, TOP, BOTTOM = 0.52, 0.10, 0.26, 0.36
ROW_HEIGHT = 0.33
SMALL, TINY = 7.5, 6.5  # points
DPI = 165
COLORS = (  # the first seven are color-blind safe
    "#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4ea3", "#8c564b", "#8a8a00",
    "#c2185b", "#00a0a0",
)  # fmt: skip
LABEL_WIDTH = 1.25  # of the names beside curves
LABEL_GAP = 0.26  # between them
LABEL_LETTERS = 19  # per line
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP"

Point = tuple[float, float, str]  # seconds, accuracy, name


@dataclass(frozen=True)
class SeriesStyle:
    """How an arm is drawn in every chart of a question; the marker alone identifies it in a row of neighbors."""

    color: str
    line: str
    marker: str


@dataclass(frozen=True)
class ChartText:
    """The texts of a chart: file name without `.png`, title, text alternative, axis labels with units."""

    name: str
    title: str
    alt: str
    xlabel: str = "epoch"
    ylabel: str = ""


@dataclass(frozen=True)
class Series:
    """A curve with its band."""

    label: str  # beside its end
    style: SeriesStyle  # of its arm
    x: Sequence[float]  # at least as long as the shortest curve
    curves: tuple[Sequence[float], ...]  # one per seed; drawn up to the length of the shortest
    faint: bool = False  # draw as the less important of two curves with the same style


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


def style_of(number: int) -> SeriesStyle:
    """Return the style of the arm with a number; 0, the most frequent reference, is gray."""
    line = LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]
    return SeriesStyle(COLORS[number % len(COLORS)], line, MARKERS[number % len(MARKERS)])


def rows_text(rows: Sequence[Row]) -> str:
    """Return the numbers of rows for a text alternative."""
    return "; ".join(
        f"{row.label} {estimate_text(row.mean, 2)}" + (f" (hollow: {row.hollow.mean:.2f})" if row.hollow else "")
        for row in rows
    )


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


def heat_map(text: ChartText, cells: Mapping[tuple[int, int], tuple[float, str]], limit: float) -> Chart:
    """Draw (value, text) by (column, row), with a color scale from -limit to limit."""
    columns, rows = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    grid = np.full((len(rows), len(columns)), np.nan)
    body = max(0.9, 0.3 * len(rows))
    figure, axes = new_chart(text, TOP + body + BOTTOM, body)
    for (column, row), (value, label) in cells.items():
        x, y = columns.index(column), rows.index(row)
        grid[y, x] = value
        color = "white" if abs(value) > 0.62 * limit else "black"
        axes.text(x, y, label, ha="center", va="center", fontsize=TINY, color=color)
    axes.imshow(grid, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    return rendered(text, figure)


def front_chart(text: ChartText, points: Sequence[Point], front: Sequence[Point], *, style: SeriesStyle) -> Chart:
    """Draw points, and their Pareto front, fastest first, as labeled steps."""
    figure, axes = new_chart(text, TOP + FRONT_HEIGHT + BOTTOM, FRONT_HEIGHT)
    axes.plot([point[0] for point in points], [point[1] for point in points], "o", color="#999999", markersize=3)
    axes.step(
        [point[0] for point in front], [point[1] for point in front], where="post", color=style.color,
        marker=style.marker, markersize=4, linewidth=1.1,
    )  # fmt: skip
    scratch = [point for point in points if not point[2][0].isdigit() and point not in front]
    for seconds, value, name in [*front, *scratch]:
        axes.annotate(
            name, (seconds, value), xytext=(-2, 2), textcoords="offset points", fontsize=TINY, ha="right", va="bottom"
        )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.14)
    label_log_ticks(axes.xaxis)
    axes.grid(alpha=0.25, linewidth=0.6)
    return rendered(text, figure)


def new_chart(
    text: ChartText, height: float, body: float, *, left: float = LEFT, right: float = RIGHT, width: float = WIDTH
) -> tuple[Figure, Axes]:
    """Return a figure of some height with labeled axes of height `body` below its title."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, 1 - (TOP + body) / height, 1 - (left + right) / width, body / height))
    axes.tick_params(labelsize=TINY, length=2.5, pad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.03, 1 - 0.05 / height, text.title, fontsize=SMALL + 0.5, fontweight="bold", va="top")
    axes.set_xlabel(text.xlabel, fontsize=SMALL, labelpad=2)
    axes.set_ylabel(text.ylabel, fontsize=SMALL, labelpad=2)
    return figure, axes


def label_log_ticks(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _row_chart(text: ChartText, rows: Sequence[Row]) -> tuple[Figure, Axes]:
    """Return a figure with one labeled line per row, y = 0, 1, ... from the top."""
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


def rendered(text: ChartText, figure: Figure) -> Chart:
    """Return a figure as a chart."""
    target = io.BytesIO()
    figure.savefig(target, dpi=DPI, format="png")
    return Chart(text.name, target.getvalue(), text.alt, float(figure.get_figwidth()), float(figure.get_figheight()))
