"""How does the difference between arms depend on the number of labels? Kind `labels`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.report.charts import Row, SeriesStyle, point_chart, rows_text, style_of
from pipeline.report.elements import Answer, Cell, Chart, Link, Table, seed_cell, text_cell
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.quantities import TEST_ACCURACY, Pairing, pair
from pipeline.report.records import ReportedArm

ALL = "all"
LABEL_EFFECT = replace(TEST_ACCURACY, above="larger", below="smaller")
REFERENCE_STYLE, ARM_STYLE = style_of(0), style_of(1)


@dataclass(frozen=True)
class LabelPoint:
    """An arm and its reference at one number of labels."""

    labels: str  # per class, or `all`
    arm: ReportedArm
    reference: ReportedArm  # what it is compared with
    pairing: Pairing  # their test accuracies

    @property
    def styled_arms(self) -> tuple[tuple[ReportedArm, SeriesStyle], ...]:
        """Both arms with their styles."""
        return (self.arm, ARM_STYLE), (self.reference, REFERENCE_STYLE)


def labels(context: QuestionContext) -> Answer:
    """Report the difference at each number of labels, and whether it depends on the number."""
    points = label_points(context)
    if not points:
        return Answer(context.question, "Not answered: no arm shares a finished seed with its reference.")
    several = len({point.labels for point in points}) < len(points)  # arms per number of labels
    titles = [labels_text(point.labels) + (f", {point.arm.marked_label}" if several else "") for point in points]
    verdicts = [TEST_ACCURACY.verdict(point.pairing.difference) for point in points]
    return Answer(
        context.question,
        "; ".join(f"{title}: {verdict}" for title, verdict in zip(titles, verdicts, strict=True)) + ".",
        ("" if several or len(points) < 2 else _dependence(points[0], points[-1]),),
        _table(context, points),
        _charts(context, points, titles),
    )


def label_points(context: QuestionContext) -> list[LabelPoint]:
    """Return the pairs of arms that share seeds, fewest labels first."""
    arms = {arm.name: arm for arm in context.arms}
    pairs = [(arms[name], arms[other]) for name, other in context.question.labelled if {name, other} <= arms.keys()]
    points = [
        LabelPoint(arm.parameter("per_class") or ALL, arm, reference, pairing)
        for arm, reference in pairs
        if (pairing := context.pair(arm, TEST_ACCURACY, reference))
    ]
    return sorted(points, key=lambda point: label_count(point.labels))


def label_count(labels: str) -> float:
    """Return a sort key for a number of labels."""
    return float(labels) if labels.isdigit() else float("inf")


def labels_text(labels: str) -> str:
    """Return `all labels` or `20 labels per class`."""
    return "all labels" if labels == ALL else f"{labels} labels per class"


def _dependence(fewest: LabelPoint, most: LabelPoint) -> str:
    """Return how the difference with the fewest labels compares with that with the most, paired by seed."""
    pairing = pair(fewest.pairing.differences, most.pairing.differences)
    if pairing is None:
        return ""
    change = pairing.difference
    interval = f"; {LABEL_EFFECT.difference_text(change)} pp" if change.count > 1 else ""
    return (
        f"\u0394 with {labels_text(fewest.labels)} vs. {labels_text(most.labels)}: "
        f"{LABEL_EFFECT.verdict(change)}{interval}."
    )


def _table(context: QuestionContext, points: list[LabelPoint]) -> Table:
    rows = []
    for point in points:
        members = [member for member in point.arm.members if member.seed in point.pairing.seeds]
        difference = point.pairing.difference
        cells = [text_cell(point.labels), seed_cell(members, context.links)]
        for arm, style in point.styled_arms:
            cells += [Cell((Link(arm.marked_label),), style.color), context.number(arm, TEST_ACCURACY.text(arm))]
        for text in (TEST_ACCURACY.difference_text(difference), difference.p_text):
            cells.append(context.number(point.arm, text))
        rows.append(tuple(cells))
    accuracy = TEST_ACCURACY.heading
    return Table(("labels per class", "seeds", "arm", accuracy, "reference", accuracy, "\u0394 (pp)", "p"), tuple(rows))


def _charts(context: QuestionContext, points: list[LabelPoint], titles: list[str]) -> tuple[Chart, ...]:
    accuracies = [
        Row(arm.marked_label, style, tuple(TEST_ACCURACY.values(arm).values()))
        for point in points
        for arm, style in point.styled_arms
    ]
    differences = [
        Row(title, ARM_STYLE, tuple(point.pairing.differences.values()))
        for title, point in zip(titles, points, strict=True)
    ]
    alt = f"Test accuracy in %, mean with 95 % CI: {rows_text(accuracies)}."
    text = context.chart_text("accuracy", "Test accuracy by number of labels", alt, xlabel="%")
    alt = f"Paired difference in pp, mean with 95 % CI: {rows_text(differences)}."
    delta = context.chart_text("difference", "\u0394 by number of labels", alt, xlabel="pp")
    return point_chart(text, accuracies, bounded=True), point_chart(delta, differences, zero=True)
