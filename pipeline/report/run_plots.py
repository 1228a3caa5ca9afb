"""Figures of one run: learning curves or L2 path, confusion matrix, most confident mistakes.

Uses matplotlib's `Figure` directly: unlike pyplot it has no global state and nothing to close. Margins are fixed in
inches, because a layout engine would take half of the time spent on figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.data.examples import Examples
from pipeline.training.convex_head import GridPoint
from pipeline.training.evaluate import Evaluation
from pipeline.training.records import EpochRecord

TRAIN_COLOR, VAL_COLOR, MARK_COLOR = "#0072b2", "#d55e00", "#555555"  # color-blind safe
DPI = 110
MAX_MISTAKES = 20
MISTAKES_PER_ROW = 5
MAX_CLASSES_WITH_COUNTS = 20


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def _margins(width: float, height: float, *, left: float, right: float, bottom: float, top: float) -> dict[str, float]:
    """Convert margins in inches to the fractions of the figure that `gridspec_kw` expects."""
    return {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}


def learning_curves(history: Sequence[EpochRecord], best_epoch: int, title: str) -> Figure:
    """Draw training and validation loss and accuracy over epochs, with the selected epoch marked."""
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2, gridspec_kw=_margins(10, 4.2, left=0.9, right=0.15, bottom=0.55, top=0.8))
    _draw_curves(left, "Loss", [(record.train_loss, record.val_loss) for record in history], best_epoch=best_epoch)
    left.set(ylabel="cross-entropy (nats)", yscale="log")
    accuracies = [(100 * record.train_accuracy, 100 * record.val_accuracy) for record in history]
    _draw_curves(right, "Accuracy", accuracies, best_epoch=best_epoch)
    right.set(ylabel="accuracy (%)")
    figure.suptitle(title)
    return figure


def _draw_curves(axes: Axes, subject: str, values: Sequence[tuple[float, float]], *, best_epoch: int) -> None:
    """Draw (training, validation) by epoch."""
    train, validation = zip(*values, strict=True)
    epochs = range(1, len(values) + 1)
    marker = "." if len(epochs) < 40 else ""
    axes.set_title(subject, y=1.0)
    axes.xaxis.set_label_coords(0.5, -0.1)
    axes.yaxis.set_label_coords(-0.13, 0.5)
    axes.plot(epochs, train, color=TRAIN_COLOR, marker=marker, label="training (running mean)")
    axes.plot(epochs, validation, color=VAL_COLOR, marker=marker, label="validation")
    axes.axvline(best_epoch, color=MARK_COLOR, linestyle="--", linewidth=1)
    axes.plot([best_epoch], [validation[best_epoch - 1]], "o", color=MARK_COLOR, label=f"selected: epoch {best_epoch}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def l2_path(path: Sequence[GridPoint], chosen: GridPoint, title: str) -> Figure:
    """Draw validation loss and accuracy of a solved head over the L2 penalty, with the chosen one marked."""
    figure = Figure(figsize=(10, 4.2))
    panels = figure.subplots(1, 2, gridspec_kw=_margins(10, 4.2, left=0.9, right=0.15, bottom=0.55, top=0.8))
    quantities = (("Loss", "cross-entropy (nats)", 1, "val_loss"), ("Accuracy", "accuracy (%)", 100, "val_accuracy"))
    for axes, (subject, ylabel, scale, name) in zip(panels, quantities, strict=True):
        values = [scale * getattr(point, name) for point in path]
        axes.plot([point.l2 for point in path], values, color=VAL_COLOR, marker=".", label="validation")
        best = scale * getattr(chosen, name)
        axes.plot([chosen.l2], [best], "o", color=MARK_COLOR, label=f"selected: {chosen.l2:.2g}")
        axes.set(xlabel="L2 penalty", xscale="log", ylabel=ylabel)
        axes.set_title(subject, y=1.0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    return figure


def confusion_matrix(evaluation: Evaluation, class_names: Sequence[str], title: str) -> Figure:
    """Draw the test confusion matrix: counts as text, shade by the fraction of the true class."""
    counts = evaluation.confusion_KK
    fractions = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    size = min(14.0, 3.2 + 0.55 * len(class_names))
    longest = max(map(len, class_names))
    ticks = 0.3 + min(2.5, 0.09 * longest)  # inches
    inches = size + ticks, size + ticks
    figure = Figure(figsize=inches)
    axes = figure.subplots(gridspec_kw=_margins(*inches, left=ticks + 0.4, right=0.2, bottom=ticks + 0.3, top=0.5))
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    classes = range(len(class_names))
    axes.set_xticks(classes, class_names, rotation=90 if longest > 3 else 0)
    axes.set_yticks(classes, class_names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{title}\nshade: fraction of the true class (dark = 1)", fontsize=10, y=1.0)
    if len(class_names) <= MAX_CLASSES_WITH_COUNTS:
        for row, column in product(classes, classes):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color)
    return figure


def mistakes(examples: Examples, evaluation: Evaluation, class_names: Sequence[str], *, title: str) -> Figure:
    """Show the misclassified images with the highest confidence, most confident first."""
    confidence, predicted = evaluation.probabilities_NK.max(1)
    wrong = (predicted != examples.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:MAX_MISTAKES].tolist()
    if not worst:
        figure = Figure(figsize=(6, 2), layout="constrained")
        figure.text(0.5, 0.5, f"{title}: none", ha="center", va="center")
        return figure
    columns = min(MISTAKES_PER_ROW, len(worst))
    rows = -(-len(worst) // columns)
    images = examples.gather(torch.tensor(worst))
    height, width = images.shape[2:]
    cell_height, cell_width = int(height * 1.5), int(width * 1.4)  # two lines of text above each image
    # one canvas for all images: separate axes would take ten times as long to draw
    canvas = torch.zeros(rows * cell_height, columns * cell_width)
    inches = 2.0 * columns + 0.4, 2.15 * rows + 0.6
    figure = Figure(figsize=inches)
    axes = figure.subplots(gridspec_kw=_margins(*inches, left=0.1, right=0.1, bottom=0.1, top=0.4))
    for number, index in enumerate(worst):
        top = number // columns * cell_height + cell_height - height
        left = number % columns * cell_width + (cell_width - width) // 2
        canvas[top : top + height, left : left + width] = images[number].float().mean(0)
        label, prediction = class_names[int(examples.labels[index])], class_names[int(predicted[index])]
        text = f"{label}, predicted {prediction}\n({100 * confidence[index]:.1f} % confidence)"
        axes.text(left + width / 2, top - 1, text, ha="center", va="bottom", fontsize=9)
    axes.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=255)
    axes.axis("off")
    axes.set_title(f"{title}: {len(wrong)} of {len(examples)}; the {len(worst)} most confident", fontsize=11, y=1.0)
    return figure
