"""Panels of a surface: a map of numbers over two whole numbers, and accuracy against seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.report.charts import (
    BOTTOM,
    TINY,
    TOP,
    Look,
    logarithmic_ticks,
    name_axes,
    panel,
    picture,
)
from pipeline.report.elements import Picture

FRONT_HEIGHT = 1.6  # inches


def draw_heat(
    name: str, cells: dict[tuple[int, int], tuple[float, str]], *, title: str, xlabel: str, ylabel: str, alt: str,
    limit: float,
) -> Picture:  # fmt: skip
    """Draw a map of numbers over two whole numbers, coloured about zero.

    Args:
        name: Of the picture's file.
        cells: Value and text by (column, row).
        title: Above.
        xlabel: Of the columns.
        ylabel: Of the rows.
        alt: What it shows, in words.
        limit: The colours end at -limit and limit.
    """
    columns, rows = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    grid = np.full((len(rows), len(columns)), np.nan)
    body = max(0.9, 0.3 * len(rows))
    figure, axes = panel(TOP + body + BOTTOM, body, title)
    for (column, row), (value, text) in cells.items():
        place = columns.index(column), rows.index(row)
        grid[place[1], place[0]] = value
        color = "white" if abs(value) > 0.62 * limit else "black"
        axes.text(*place, text, ha="center", va="center", fontsize=TINY, color=color)
    axes.imshow(grid, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    name_axes(axes, xlabel, ylabel)
    return picture(name, figure, alt)


Point = tuple[float, float, str]  # seconds, value, name


def draw_front(
    name: str, points: Sequence[Point], front: Sequence[Point], *, look: Look, title: str, xlabel: str, ylabel: str,
    alt: str,
) -> Picture:  # fmt: skip
    """Draw points and, as steps, those that no other one beats.

    Args:
        name: Of the picture's file.
        points: All.
        front: Those that are named and joined, by seconds.
        look: Of the front.
        title: Above.
        xlabel: With its unit.
        ylabel: With its unit.
        alt: What it shows, in words.
    """
    figure, axes = panel(TOP + FRONT_HEIGHT + BOTTOM, FRONT_HEIGHT, title)
    axes.plot([one[0] for one in points], [one[1] for one in points], "o", color="#999999", markersize=3)
    axes.step(
        [one[0] for one in front], [one[1] for one in front], where="post", color=look.color, marker=look.marker,
        markersize=4, linewidth=1.1,
    )  # fmt: skip
    named = [*front, *(one for one in points if not one[2][0].isdigit() and one not in front)]
    for seconds, value, text in named:
        axes.annotate(
            text, (seconds, value), xytext=(-2, 2), textcoords="offset points", fontsize=TINY, ha="right", va="bottom"
        )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.14)
    logarithmic_ticks(axes.xaxis)
    name_axes(axes, xlabel, ylabel)
    axes.grid(alpha=0.25, linewidth=0.6)
    return picture(name, figure, alt)
