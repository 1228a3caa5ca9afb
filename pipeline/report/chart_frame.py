"""What all charts of a report share: size, axes, styles of arms, and rendering as an image.

Each chart is one small image with readable text, so that a page can place charts side by side, or below each other on
a phone. Margins are fixed in inches: a layout engine would take several times as long.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from pipeline.report.elements import Chart

WIDTH = 3.1  # inches, as all lengths here
LEFT, RIGHT, TOP, BOTTOM = 0.52, 0.10, 0.26, 0.36
SMALL, TINY = 7.5, 6.5  # points
DPI = 165
COLORS = (  # the first seven are color-blind safe
    "#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4ea3", "#8c564b", "#8a8a00",
    "#c2185b", "#00a0a0",
)  # fmt: skip
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP"


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


def style_of(number: int) -> SeriesStyle:
    """Return the style of the arm with a number; 0, the most frequent reference, is gray."""
    line = LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]
    return SeriesStyle(COLORS[number % len(COLORS)], line, MARKERS[number % len(MARKERS)])


def new_chart(
    text: ChartText, height: float, body: float, *, left: float = LEFT, right: float = RIGHT, width: float = WIDTH
) -> tuple[Figure, Axes]:
    """Return a figure of some height with labelled axes of height `body` below its title."""
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


def rendered(text: ChartText, figure: Figure) -> Chart:
    """Return a figure as a chart."""
    target = io.BytesIO()
    figure.savefig(target, dpi=DPI, format="png")
    return Chart(text.name, target.getvalue(), text.alt, float(figure.get_figwidth()), float(figure.get_figheight()))
