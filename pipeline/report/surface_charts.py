"""Charts over the layers reused and trained: a heat map, and a Pareto front of time and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.report.chart_frame import BOTTOM, TINY, TOP, ChartText, SeriesStyle, label_log_ticks, new_chart, rendered
from pipeline.report.elements import Chart

FRONT_HEIGHT = 1.6
Point = tuple[float, float, str]  # seconds, accuracy, name


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
    """Draw points, and their Pareto front, fastest first, as labelled steps."""
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
