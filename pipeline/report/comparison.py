"""Arms side by side: one table, one figure, and where a difference in training time comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.questions.paired_values import place_of
from pipeline.report.records import CAP_MARK
from pipeline.tracking import names
from pipeline.tracking.queries import Arm

COLORS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by colour-blind readers too


def comparison_table(arms: Sequence[Arm]) -> pd.DataFrame:
    """Return one row an arm: accuracies, training time, and the numbers that explain it."""
    rows = []
    for arm in arms:
        own, epochs = arm.metrics, arm.metrics[names.EPOCHS_RUN]
        converged = arm.tags.get(names.CONVERGED, "not logged")
        rows.append(
            {
                "arm": f"{arm.name}{CAP_MARK}" if converged.startswith("no:") else arm.name,
                "stage": arm.stage,
                "run": arm.run_id,
                "train accuracy %": 100 * own[names.TRAIN_FINAL_ACCURACY],
                "validation accuracy %": 100 * own[names.VAL_FINAL_ACCURACY],
                "test accuracy %": 100 * own[names.TEST_ACCURACY],
                "test precision %": 100 * own[names.TEST_PRECISION],
                "training seconds": own[names.FIT_SECONDS],
                "epochs": int(epochs),
                "best epoch": int(own[names.BEST_EPOCH]),
                "converged": converged,
                "seconds an epoch": sum(arm.curves[names.EPOCH_SECONDS]) / epochs,
                "seconds to 98 % on validation": own.get("time/to_val_0.98", float("nan")),
                "share of parameters trained %": 100 * own[names.TRAINABLE_SHARE],
                "million multiply-adds an epoch": own[names.EPOCH_OPERATIONS] / 1e6,
            }
        )
    return pd.DataFrame(rows).set_index("arm")


def explain_time(first: Arm, second: Arm) -> str:
    """Say in numbers why one arm took longer than the other: epochs, seconds an epoch, what is computed."""
    table = comparison_table([first, second])
    one, other = table.iloc[0], table.iloc[1]
    lines = [
        f"{first.name} trained {one['training seconds']:.1f} s, {second.name} {other['training seconds']:.1f} s: "
        f"a ratio of {one['training seconds'] / other['training seconds']:.2f}.",
        f"Epochs: {one['epochs']} against {other['epochs']} (ratio {one['epochs'] / other['epochs']:.2f}).",
        f"Seconds an epoch: {one['seconds an epoch']:.3f} against {other['seconds an epoch']:.3f} "
        f"(ratio {one['seconds an epoch'] / other['seconds an epoch']:.2f}).",
        f"Multiply-adds an epoch: {one['million multiply-adds an epoch']:.0f} against "
        f"{other['million multiply-adds an epoch']:.0f} million "
        f"(ratio {one['million multiply-adds an epoch'] / other['million multiply-adds an epoch']:.2f}).",
        f"Share of the parameters that is trained: {one['share of parameters trained %']:.1f} % against "
        f"{other['share of parameters trained %']:.1f} %.",
    ]
    if place_of(first) != place_of(second):
        lines.append("The two ran on different hosts or devices: their times cannot be compared.")
    return "\n".join(lines)


def comparison_figure(arms: Sequence[Arm]) -> Figure:
    """Draw loss over epochs and over training seconds, and the accuracies, of several arms."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1))
    by_epoch, by_second = (figure.add_subplot(grid[0, column]) for column in (0, 1))
    bars, seconds = (figure.add_subplot(grid[1, column]) for column in (0, 1))
    for number, arm in enumerate(arms):
        color = COLORS[number % len(COLORS)]
        epochs = range(1, len(arm.curves[names.VAL_LOSS]) + 1)
        elapsed = pd.Series(arm.curves[names.EPOCH_SECONDS]).cumsum()
        for axes, places in ((by_epoch, epochs), (by_second, elapsed)):
            axes.plot(places, arm.curves[names.VAL_LOSS], color=color, label=f"{arm.name}, validation")
            axes.plot(places, arm.curves[names.TRAIN_LOSS], color=color, linestyle=":", label=f"{arm.name}, training")
    by_epoch.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log", title="Loss by epoch")
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_second.set(xlabel="training time (s)", ylabel="cross-entropy (nats)", yscale="log", title="Loss by time")
    by_epoch.legend(fontsize=8)
    table = comparison_table(arms)
    colors = [COLORS[number % len(COLORS)] for number in range(len(arms))]
    rows = list(range(len(arms)))
    for offset, column, alpha in ((-0.2, "train accuracy %", 0.45), (0.2, "test accuracy %", 1.0)):
        drawn = bars.barh([row + offset for row in rows], table[column], 0.38, color=colors, alpha=alpha)
        bars.bar_label(drawn, [f"{value:.2f} ({column.split()[0]})" for value in table[column]], padding=3, fontsize=8)
    lowest = float(table[["train accuracy %", "test accuracy %"]].min().min())
    bars.set(xlim=(lowest - 0.6 * (100.01 - lowest), 100 + 0.9 * (100.01 - lowest)), xlabel="accuracy (%)",
             title="Training and test accuracy")  # fmt: skip
    low, high = bars.get_xlim()
    bars.set_xticks([tick for tick in bars.get_xticks() if low <= tick <= 100])  # beyond is room for the labels
    bars.set_xlim(low, high)
    drawn = seconds.barh(rows, table["training seconds"], 0.6, color=colors)
    notes = [
        f"{row['training seconds']:.1f} s = {row['epochs']} x {row['seconds an epoch']:.3f} s + validation"
        for _, row in table.iterrows()
    ]
    seconds.bar_label(drawn, notes, padding=3, fontsize=8)
    seconds.set(
        xlabel="training time (s)", title="Training time", xlim=(0, 2.3 * float(table["training seconds"].max()))
    )
    for axes in (bars, seconds):
        axes.set_yticks(rows, [textwrap.fill(str(name), 24) for name in table.index], fontsize=8)
        axes.invert_yaxis()
    for axes in (by_epoch, by_second):
        axes.grid(alpha=0.3)
    return figure


def comparison_markdown(arms: Sequence[Arm]) -> str:
    """Return the table, and for the last two arms what explains their times, as Markdown."""
    table = comparison_table(arms)
    columns = list(table.columns)
    lines = ["| arm | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.iterrows():
        shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    if len(arms) > 1:
        lines += ["", explain_time(arms[-2], arms[-1])]
    return "\n".join(lines) + "\n"
