"""Panels of a study's figures: curves over epochs, points with intervals, bars with intervals.

One panel is one small picture, so that a page can put them side by side or, on a phone, below each other, and the
text stays readable. Drawn economically: fixed margins in inches, no layout engine, nothing global.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.report.comparison import COLORS
from pipeline.report.elements import Picture
from pipeline.report.statistics import Estimate

WIDTH = 3.1  # inches, as are all lengths here
CURVES_HEIGHT = 1.75
LEFT, RIGHT, TOP, BOTTOM = 0.52, 0.10, 0.26, 0.36
ROW_HEIGHT = 0.33
LEGEND_LINE = 0.122
SMALL, TINY = 7.5, 6.5  # points
PIXELS_AN_INCH = 165
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP"


@dataclass(frozen=True)
class Look:
    """How an arm is drawn, in every panel of a question.

    Attributes:
        color: Told apart by colour-blind readers too.
        style: Of lines; changes where colours are used up.
        marker: Of points; differs between neighbours, so that colour is not needed.
    """

    color: str
    style: str
    marker: str


@dataclass(frozen=True)
class Series:
    """One line with its band.

    Attributes:
        label: In the legend.
        look: Of its arm.
        curves: One list a seed; drawn as far as all of them go.
        faint: Whether it is the lesser one of two with the same look.
        start: Where its horizontal axis begins.
        places: Positions instead of start, start + 1, ...
    """

    label: str
    look: Look
    curves: tuple[Sequence[float], ...]
    faint: bool = False
    start: int = 1
    places: Sequence[float] | None = None


@dataclass(frozen=True)
class Row:
    """One arm in a panel of points or bars.

    Attributes:
        label: Above its mark.
        look: Of the arm.
        found: Mean and interval.
        values: One a seed.
        second: Drawn hollow on the same row; None for nothing.
    """

    label: str
    look: Look
    found: Estimate
    values: Sequence[float]
    second: Estimate | None = None


def look_of(number: int) -> Look:
    """Return how the arm with a number is drawn; 0 is the reference, in grey."""
    return Look(
        COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)], MARKERS[number % len(MARKERS)]
    )


def draw_curves(
    name: str, series: Sequence[Series], *, title: str, ylabel: str, alt: str, xlabel: str = "epoch",
    logarithmic: bool = False, level: float | None = None, top: float | None = None,
) -> Picture:  # fmt: skip
    """Draw lines: the mean over seeds, and their range as a band.

    Args:
        name: Of the picture's file.
        series: At least one.
        title: Above.
        ylabel: With its unit.
        alt: What it shows, in words.
        xlabel: With its unit.
        logarithmic: Whether the vertical axis is.
        level: Where a horizontal line marks a threshold.
        top: The vertical axis' upper end.
    """
    height = TOP + CURVES_HEIGHT + BOTTOM + LEGEND_LINE * len(series) + 0.02
    figure, axes = panel(height, CURVES_HEIGHT, title)
    for one in series:
        _draw_series(axes, one)
    if level is not None:
        axes.axhline(level, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
    name_axes(axes, xlabel, ylabel)
    if logarithmic:
        axes.set_yscale("log")
        logarithmic_ticks(axes.yaxis)
    elif top is not None:
        axes.set_ylim(_floor(series, top), top)
    if xlabel == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25, linewidth=0.6)
    legend_below(figure, axes)
    return picture(name, figure, alt)


def _draw_series(axes: Axes, one: Series) -> None:
    length = min(map(len, one.curves))
    values = np.array([curve[:length] for curve in one.curves], dtype=float)
    places = np.arange(one.start, one.start + length) if one.places is None else np.asarray(one.places[:length])
    style, width, alpha = (":", 1.1, 0.9) if one.faint else (one.look.style, 1.4, 1.0)
    marker = one.look.marker if length < 3 else None
    axes.plot(
        places, values.mean(0), color=one.look.color, linestyle=style, linewidth=width, alpha=alpha, label=one.label,
        marker=marker, markersize=3,
    )  # fmt: skip
    if len(one.curves) > 1 and not one.faint:
        axes.fill_between(places, values.min(0), values.max(0), color=one.look.color, alpha=0.16, linewidth=0)


def _floor(series: Sequence[Series], top: float) -> float:
    """Return a lower end that leaves out the steep beginning, which would flatten everything else."""
    tails = [min(curve[min(len(curve) - 1, max(1, len(curve) // 10)) :]) for one in series for curve in one.curves]
    return min(tails) - 0.12 * (top - min(tails)) - 1e-3


def draw_points(
    name: str, rows: Sequence[Row], *, title: str, xlabel: str, alt: str, ceiling: float | None = None,
    zero: bool = False, connected: bool = False, hint: str = "",
) -> Picture:  # fmt: skip
    """Draw each arm's mean with its interval, and its seeds as small dots.

    Args:
        name: Of the picture's file.
        rows: At least one.
        title: Above.
        xlabel: With its unit.
        alt: What it shows, in words.
        ceiling: The largest value that is possible.
        zero: Whether a line marks zero.
        connected: Whether a line joins the two marks of a row.
        hint: What filled and hollow marks are.
    """
    figure, axes = _rows_panel(rows, title, f"{xlabel}\n{hint}" if hint else xlabel)
    ends: list[float] = [0.0] if zero else []
    for place, row in enumerate(rows):
        ends += _draw_point(axes, place, row, connected)
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    axes.set_xlim(low - margin, high + margin)
    if ceiling is not None and high + margin > ceiling:
        axes.set_xlim(low - margin, max(ceiling, high) + 0.4 * margin)
    if zero:
        axes.axvline(0, color="#555555", linewidth=0.9)
    _label_rows(axes, rows)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return picture(name, figure, alt)


def _draw_point(axes: Axes, place: int, row: Row, connected: bool) -> list[float]:
    found, color = row.found, row.look.color
    width = found.half_width if found.count > 1 else 0.0
    axes.plot(row.values, [place + 0.16] * len(row.values), "|", color=color, alpha=0.7, markersize=3.5)
    axes.errorbar(
        found.mean, place, xerr=width or None, fmt=row.look.marker, color=color, markersize=4.2, capsize=2.5,
        elinewidth=1.3,
    )  # fmt: skip
    ends = [found.mean - width, found.mean + width, *row.values]
    if row.second is not None:
        if connected:
            axes.plot([found.mean, row.second.mean], [place, place], color=color, linewidth=0.8, alpha=0.6)
        axes.plot(row.second.mean, place, row.look.marker, markersize=5.6, markerfacecolor="none", color=color)
        ends.append(row.second.mean)
    return ends


def draw_bars(name: str, rows: Sequence[Row], *, title: str, xlabel: str, alt: str) -> Picture:
    """Draw each arm's mean as a bar from zero, with its interval and its seeds.

    Args:
        name: Of the picture's file.
        rows: At least one, of values that are not negative.
        title: Above.
        xlabel: With its unit.
        alt: What it shows, in words.
    """
    figure, axes = _rows_panel(rows, title, xlabel)
    highest = 0.0
    for place, row in enumerate(rows):
        found = row.found
        width = found.half_width if found.count > 1 else 0.0
        below = min(width, found.mean)  # a duration is not negative
        axes.barh(place, found.mean, 0.3, color=row.look.color, alpha=0.75)
        axes.plot(row.values, [place + 0.25] * len(row.values), "|", color=row.look.color, alpha=0.7, markersize=3.5)
        if width:
            axes.errorbar(
                found.mean, place, xerr=[[below], [width]], color="#222222", elinewidth=1, capsize=2.5, fmt="none"
            )
        highest = max(highest, found.mean + width, *row.values)
    axes.set_xlim(0, 1.05 * highest or 1.0)
    _label_rows(axes, rows)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return picture(name, figure, alt)


def panel(height: float, body: float, title: str, *, left: float = LEFT) -> tuple[Figure, Axes]:
    """Return a figure of some height with axes of a body's height below its title."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left / WIDTH, 1 - (TOP + body) / height, 1 - (left + RIGHT) / WIDTH, body / height))
    axes.tick_params(labelsize=TINY, length=2.5, pad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.03, 1 - 0.05 / height, title, fontsize=SMALL + 0.5, fontweight="bold", va="top")
    return figure, axes


def name_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Write what the axes show."""
    axes.set_xlabel(xlabel, fontsize=SMALL, labelpad=2)
    axes.set_ylabel(ylabel, fontsize=SMALL, labelpad=2)


def logarithmic_ticks(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend under the axes, one line an entry, where it hides nothing."""
    figure.legend(
        *axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(0.3 / WIDTH, 0), fontsize=TINY,
        frameon=False, borderaxespad=0.1, labelspacing=0.18, handlelength=2.2,
    )  # fmt: skip


def _rows_panel(rows: Sequence[Row], title: str, xlabel: str) -> tuple[Figure, Axes]:
    body = ROW_HEIGHT * len(rows) + 0.06
    below = BOTTOM + 0.12 * xlabel.count("\n")
    figure, axes = panel(TOP + body + below, body, title, left=0.14)
    axes.set_xlabel(xlabel, fontsize=SMALL, labelpad=2)
    axes.set_ylim(len(rows) - 0.62, -0.62)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _label_rows(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        axes.text(
            0.0, place - 0.2, textwrap.shorten(row.label, 60, placeholder="..."), fontsize=TINY, va="bottom",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def picture(name: str, figure: Figure, alt: str) -> Picture:
    """Return a figure as a picture."""
    target = io.BytesIO()
    figure.savefig(target, dpi=PIXELS_AN_INCH, format="png")
    return Picture(name, target.getvalue(), alt, float(figure.get_figwidth()), float(figure.get_figheight()))
