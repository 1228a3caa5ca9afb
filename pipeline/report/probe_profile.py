"""The layer profile of a probe: its rows, table file, figure and takeaway."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MAX_NAMED_CUTS = 30  # block names under the axis; numbers if there are more


@dataclass(frozen=True)
class CutScore:
    """The scores of one cut.

    Attributes:
        cut: Number of blocks below it.
        block: Name of the last of them.
        units: Features per image.
        accuracy: Cross-validated, of solved heads.
        low: Lower end of its 95 % interval.
        high: Upper end.
        logme: In nats per image.
        converged: Whether all solves reached the tolerance.
        at_grid_edge: Number of folds that chose an L2 penalty at the edge of the grid.
        seconds: Of all solves.
        frozen_runs: Number of finished `transfer` runs with all blocks below the cut frozen.
        frozen_accuracy: Their mean test accuracy; None without runs.
        fine_tuned_runs: Likewise, all blocks below the cut fine-tuned.
        fine_tuned_accuracy: Likewise.
    """

    cut: int
    block: str
    units: int
    accuracy: float
    low: float
    high: float
    logme: float
    converged: bool
    at_grid_edge: int
    seconds: float
    frozen_runs: int = 0
    frozen_accuracy: float | None = None
    fine_tuned_runs: int = 0
    fine_tuned_accuracy: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the printed table: cut, block, units, accuracy, interval, LogME, measured accuracies."""
        measured = (
            f"{100 * value:.2f} (n = {count})" if value is not None else ""
            for value, count in (
                (self.frozen_accuracy, self.frozen_runs),
                (self.fine_tuned_accuracy, self.fine_tuned_runs),
            )
        )
        interval = f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        accuracy = f"{100 * self.accuracy:.2f}{'' if self.converged else ' (not converged)'}"
        return str(self.cut), self.block, str(self.units), accuracy, interval, f"{self.logme:.4f}", *measured


def write_profile(path: Path, scores: Sequence[CutScore]) -> Path:
    """Write one CSV row per cut, and return the path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in dataclasses.fields(CutScore))
        writer.writerows(map(dataclasses.astuple, scores))
    return path


def takeaway(scores: Sequence[CutScore]) -> str:
    """Return one sentence: the best cut, which cuts lie within its interval, and the cut that LogME prefers."""
    best = max(scores, key=lambda score: score.accuracy)
    close = [score.cut for score in scores if score.cut != best.cut and score.accuracy >= best.low]
    others = f"within its interval: {', '.join(map(str, close))}" if close else "no other cut is within its interval"
    hint = max(scores, key=lambda score: score.logme).cut
    agreement = "LogME agrees" if hint == best.cut else f"LogME prefers cut {hint}"
    block = str(best.cut) if best.block == str(best.cut) else f"{best.cut} ({best.block})"
    interval = f"95 % CI {100 * best.low:.1f} to {100 * best.high:.1f}"
    return (
        f"heads on frozen features are most accurate after block {block}: "
        f"{100 * best.accuracy:.2f} % ({interval}); {others}; {agreement}."
    )


def draw_profile(scores: Sequence[CutScore], title: str) -> Figure:
    """Draw accuracy by cut with its interval, measured test accuracies beside it, and LogME."""
    figure = Figure(figsize=(10, 6.4))
    grid = {"left": 0.09, "right": 0.985, "bottom": 0.16, "top": 0.92, "hspace": 0.12}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={**grid, "height_ratios": [2, 1]})
    _draw_accuracy(top, scores)
    cuts = [score.cut for score in scores]
    bottom.plot(cuts, [score.logme for score in scores], color="#555555", marker="o")
    bottom.set(xlabel="last frozen block", ylabel="LogME (nats per image)")
    bottom.grid(alpha=0.3)
    if len(scores) <= MAX_NAMED_CUTS:
        labels = [score.block if score.block == str(score.cut) else f"{score.cut} {score.block}" for score in scores]
        bottom.set_xticks(cuts, labels, rotation=0 if max(map(len, labels)) < 4 else 30, ha="center")
    else:
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    return figure


def _draw_accuracy(axes: Axes, scores: Sequence[CutScore]) -> None:
    cuts = [score.cut for score in scores]
    below = [100 * (score.accuracy - score.low) for score in scores]
    above = [100 * (score.high - score.accuracy) for score in scores]
    values = [100 * score.accuracy for score in scores]
    label = "solved head, cross-validation (95 % interval)"
    axes.errorbar(cuts, values, [below, above], color="#0072b2", marker="o", capsize=3, label=label)
    for kind, marker, color in (("frozen", "s", "#d55e00"), ("fine_tuned", "^", "#009e73")):
        points = [
            (score.cut, 100 * value) for score in scores if (value := getattr(score, f"{kind}_accuracy")) is not None
        ]
        if points:
            name = f"transfer, {kind.replace('_', '-')}: test accuracy"
            axes.plot(*zip(*points, strict=True), marker, color=color, label=name)
    axes.set(ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
