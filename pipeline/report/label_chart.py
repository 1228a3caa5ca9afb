"""The chart of label curves: accuracy by labels per class with and without reuse, and what reuse is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pipeline.report.chart_frame import BOTTOM, SMALL, TOP, ChartText, label_log_ticks, new_chart, rendered
from pipeline.report.elements import Chart
from pipeline.report.row_charts import Row

BODY = 2.3  # inches
WIDTH = 4.6


@dataclass(frozen=True)
class Worth:
    """The arrow from a point of the arm's curve to the curve from scratch."""

    labels: float  # per class, of the arm
    worth: float  # labels per class from scratch with the same accuracy, finite
    accuracy: float  # of both, in percent


def label_chart(
    text: ChartText, labels: Sequence[float], curves: Sequence[Sequence[Row]], *, arrow: Worth | None
) -> Chart:
    """Draw accuracy by labels per class, on a logarithmic axis, with one labelled curve per arm.

    Args:
        text: The texts of the chart.
        labels: Labels per class, ascending.
        curves: Per arm, its accuracies at each number of labels; all rows of a curve have its label and style.
        arrow: What to point out.
    """
    figure, axes = new_chart(text, TOP + BODY + BOTTOM, BODY, width=WIDTH)
    lowest = min(curves, key=lambda curve: curve[-1].mean.mean)
    for curve in curves:
        _draw_curve(axes, labels, curve, below=curve is lowest)
    if arrow is not None:
        axes.annotate(
            "", (arrow.worth, arrow.accuracy), (arrow.labels, arrow.accuracy),
            arrowprops={"arrowstyle": "->", "color": "#222222", "linewidth": 1.2},
        )  # fmt: skip
        axes.annotate(
            f"{arrow.labels:.0f} labels with reuse = {arrow.worth:.0f} from scratch", (arrow.labels, arrow.accuracy),
            xytext=(2, 5), textcoords="offset points", fontsize=SMALL,
        )  # fmt: skip
    axes.set_xscale("log")
    label_log_ticks(axes.xaxis)
    axes.set_xlim(labels[0] * 0.9, labels[-1] * 1.1)
    axes.grid(alpha=0.25, linewidth=0.6)
    return rendered(text, figure)


def _draw_curve(axes: Axes, labels: Sequence[float], curve: Sequence[Row], *, below: bool) -> None:
    """Draw means with intervals, and the name of the arm above or below the curve's right end."""
    style, means = curve[0].style, [row.mean.mean for row in curve]
    lower, upper = zip(*(row.ends for row in curve), strict=True)
    axes.plot(labels, means, color=style.color, marker=style.marker, markersize=4, linewidth=1.5)
    axes.fill_between(labels, lower, upper, color=style.color, alpha=0.15, linewidth=0)
    axes.annotate(
        curve[0].label, (labels[-1], means[-1]), xytext=(0, -24 if below else 8),
        textcoords="offset points", fontsize=SMALL, color=style.color, ha="right",
    )  # fmt: skip
