"""How does the difference between arms depend on the number of labels, and what is reuse worth? Kind `labels`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.report.chart_frame import SeriesStyle, style_of
from pipeline.report.elements import NO_VALUE, Answer, Cell, Chart, Link, Table, seed_cell, text_cell
from pipeline.report.label_chart import Worth, label_chart
from pipeline.report.questions.comparisons import Compared
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.quantities import TEST_ACCURACY, TRAINING_TIME
from pipeline.report.records import ReportedArm
from pipeline.report.row_charts import Row, point_chart, rows_text
from pipeline.statistics.estimates import estimate_pairs
from pipeline.statistics.worth import LabelCount, LabelCurves, crossover, crossover_text, curves, worth_in_labels

ALL = "all"
MIN_COUNTS = 2  # of a label curve
REFERENCE_STYLE, ARM_STYLE = style_of(0), style_of(1)


@dataclass(frozen=True)
class LabelPoint:
    """An arm and its reference at one number of labels."""

    labels: str  # per class, or `all`
    compared: Compared  # their test accuracies

    @property
    def arm(self) -> ReportedArm:
        """The arm."""
        return self.compared.arm

    @property
    def reference(self) -> ReportedArm:
        """What it is compared with."""
        return self.compared.planned.reference

    @property
    def styled_arms(self) -> tuple[tuple[ReportedArm, SeriesStyle], ...]:
        """Both arms with their styles."""
        return (self.arm, ARM_STYLE), (self.reference, REFERENCE_STYLE)


@dataclass(frozen=True)
class LabelsWorth:
    """What reuse is worth in labels, from the curves of an arm and of its reference."""

    curves: LabelCurves
    worth: dict[float, LabelCount]  # by labels per class of the arm
    crossover: LabelCount


def labels(context: QuestionContext) -> Answer:
    """Report the difference at each number of labels, and what reuse is worth in labels."""
    points = label_points(context)
    if not points:
        return Answer(context.question, "Not answered: no arm shares a finished seed with its reference.")
    several = len({point.labels for point in points}) < len(points)  # arms per number of labels
    titles = [labels_text(point.labels) + (f", {point.arm.marked_label}" if several else "") for point in points]
    worth = None if several else labels_worth(points)
    verdicts = "; ".join(f"{title}: {point.compared.text()}" for title, point in zip(titles, points, strict=True))
    headline, *sentences = (*(_worth_sentences(points, worth) if worth else []), f"{verdicts}.")
    return Answer(
        context.question,
        headline,
        tuple(sentences),
        _table(context, points, worth),
        (*_worth_chart(context, points, worth), *_charts(context, points, titles)),
    )


def label_points(context: QuestionContext) -> list[LabelPoint]:
    """Return the pairs of arms that share seeds, fewest labels first."""
    context.main_comparison("")  # notes seeds that are left out
    points = [LabelPoint(one.arm.parameter("per_class") or ALL, one) for one in context.primary if one.verdict.count]
    return sorted(points, key=lambda point: label_count(point.labels))


def label_count(labels: str) -> float:
    """Return a sort key for a number of labels."""
    return float(labels) if labels.isdigit() else float("inf")


def labels_text(labels: str) -> str:
    """Return `all labels` or `20 labels per class`."""
    return "all labels" if labels == ALL else f"{labels} labels per class"


def labels_worth(points: list[LabelPoint]) -> LabelsWorth | None:
    """Return what reuse is worth; None with fewer than two numbers of labels, or without common seeds.

    The point with all labels is left out: its number of labels per class is not fixed.
    """
    counted = [point for point in points if point.labels.isdigit()]
    if len(counted) < MIN_COUNTS:
        return None
    label_curves = curves(
        {int(point.labels): TEST_ACCURACY.values(point.arm) for point in counted},
        {int(point.labels): TEST_ACCURACY.values(point.reference) for point in counted},
    )
    if not label_curves.arm.size:
        return None
    worth = {float(count): worth_in_labels(label_curves, float(count)) for count in label_curves.labels}
    return LabelsWorth(label_curves, worth, crossover(label_curves))


def _worth_sentences(points: list[LabelPoint], worth: LabelsWorth) -> list[str]:
    """Return what reuse is worth at each number of labels where it is worth more, else at the fewest; the crossover."""
    label = points[0].arm.label.split(": per_class")[0]
    fewest = float(worth.curves.labels[0])
    gains = [at for at, one in worth.worth.items() if one.labels > at] or [fewest]
    listed = "; ".join(f"{at:g} labels per class are worth {worth.worth[at].text()} from scratch" for at in gains)
    seeds, most = worth.crossover.seeds, worth.curves.labels[-1]
    return [
        f"{label}: {listed} (n = {seeds}, measured up to {most:g}).",
        f"Crossover: {crossover_text(worth.crossover)}.",
    ]


def _table(context: QuestionContext, points: list[LabelPoint], worth: LabelsWorth | None) -> Table:
    rows = []
    for point in points:
        members = [member for member in point.arm.members if member.seed in point.compared.planned.pairs.seeds]
        cells = [text_cell(point.labels), seed_cell(members, context.links)]
        for arm, style in point.styled_arms:
            cells += [Cell((Link(arm.marked_label),), style.color), context.number(arm, TEST_ACCURACY.text(arm))]
        value = worth.worth.get(label_count(point.labels)) if worth else None
        cells += [text_cell(value.text() if value else NO_VALUE), text_cell(_seconds_per_point(point))]
        rows.append(tuple(cells))
    accuracy = TEST_ACCURACY.heading
    columns = (
        "labels per class",
        "seeds",
        "arm",
        accuracy,
        "reference",
        accuracy,
        "worth from scratch",
        "s per percentage point",
    )
    return Table(columns, tuple(rows))


def _seconds_per_point(point: LabelPoint) -> str:
    """Return the extra training time per percentage point gained: negative if the arm is faster, `-` without a gain."""
    pairs = TRAINING_TIME.pair(point.arm, point.reference)
    gain = estimate_pairs(point.compared.planned.pairs).mean
    if not pairs.seeds or gain <= 0:
        return NO_VALUE
    return f"{float(pairs.differences().mean()) / gain:+.2f}"


def _worth_chart(context: QuestionContext, points: list[LabelPoint], worth: LabelsWorth | None) -> list[Chart]:
    """Draw both label curves, and an arrow where reuse multiplies the labels most."""
    if worth is None:
        return []
    counted = [point for point in points if point.labels.isdigit()]
    sides = (("with reuse", ARM_STYLE, "arm"), ("from scratch", REFERENCE_STYLE, "reference"))
    rows = [
        [
            Row(label, style, tuple(TEST_ACCURACY.values(getattr(point, side)).values()), None, TEST_ACCURACY.bounds)
            for point in counted
        ]
        for label, style, side in sides
    ]
    gains = {at: one.labels / at for at, one in worth.worth.items() if at < one.labels < math.inf}
    arrow = None
    if gains:
        at = max(gains, key=gains.__getitem__)
        row = int((worth.curves.labels == at).argmax())
        arrow = Worth(at, worth.worth[at].labels, float(worth.curves.arm[row].mean()))
    listed = "; ".join(f"{at:g}: {one.text()}" for at, one in worth.worth.items())
    alt = f"Test accuracy by labels per class, with reuse and from scratch. Worth of reuse from scratch: {listed}."
    text = context.chart_text(
        "worth", "What reuse is worth in labels", alt, xlabel="labels per class", ylabel="test accuracy (%)"
    )
    return [label_chart(text, worth.curves.labels.tolist(), rows, arrow=arrow)]


def _charts(context: QuestionContext, points: list[LabelPoint], titles: list[str]) -> tuple[Chart, ...]:
    accuracies = [
        Row(arm.marked_label, style, tuple(TEST_ACCURACY.values(arm).values()), None, TEST_ACCURACY.bounds)
        for point in points
        for arm, style in point.styled_arms
    ]
    differences = [
        Row(title, ARM_STYLE, tuple(point.compared.planned.pairs.differences().tolist()))
        for title, point in zip(titles, points, strict=True)
    ]
    alt = f"Test accuracy in %, mean with 95 % CI: {rows_text(accuracies)}."
    text = context.chart_text("accuracy", "Test accuracy by number of labels", alt, xlabel="%")
    alt = f"Paired difference in pp, mean with 95 % CI: {rows_text(differences)}."
    delta = context.chart_text("difference", "\u0394 by number of labels", alt, xlabel="pp")
    return point_chart(text, accuracies, bounded=True), point_chart(delta, differences, zero=True)
