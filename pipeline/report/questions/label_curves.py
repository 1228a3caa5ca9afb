"""How does the difference between two arms depend on the number of labels? Kind `labels`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.charts import Row, draw_points, look_of
from pipeline.report.elements import Answer, Cell, Link, Picture, Table, p_text, percent_text, seed_cell
from pipeline.report.questions.accuracy import accuracy_on_test, rows_text
from pipeline.report.questions.context import Subject
from pipeline.report.questions.paired_values import Pairing, Values, mean_of, pair, parameter
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import paired_difference, verdict

ALL = "all"


@dataclass(frozen=True)
class Step:
    """An arm and its reference at one number of labels.

    Attributes:
        labels: A class, or `all`.
        arm: What is asked about.
        reference: What it is compared with.
        found: Their test accuracies, paired.
    """

    labels: str
    arm: ReportedArm
    reference: ReportedArm
    found: Pairing

    @property
    def label(self) -> str:
        """The number of labels in words."""
        return "all labels" if self.labels == ALL else f"{self.labels} labels a class"

    @property
    def differences(self) -> Values:
        """Of test accuracy, by seed."""
        return {
            seed: mine - theirs
            for seed, mine, theirs in zip(self.found.seeds, self.found.values, self.found.reference, strict=True)
        }


def labels(subject: Subject) -> Answer:
    """Say at which numbers of labels the arms differ from their references, and whether that depends on the number."""
    steps = steps_of(subject)
    if not steps:
        return Answer(subject.question, "Not answered: no arm and its reference share a finished seed.")
    several = len({step.labels for step in steps}) < len(steps)
    said = [
        f"{step.label}{f', {step.arm.label}' if several else ''}: {verdict(step.found.difference, 'ahead', 'behind')}"
        for step in steps
    ]
    sentences = [] if several or len(steps) < 2 else [dependence(steps[0], steps[-1])]
    return Answer(
        subject.question, f"{'; '.join(said)}.", tuple(filter(None, sentences)), (), _table(subject, steps),
        _pictures(subject, steps, several),
    )  # fmt: skip


def steps_of(subject: Subject) -> list[Step]:
    """Return the pairs that have seeds in common, fewest labels first."""
    arms = {arm.name: arm for arm in subject.arms}
    found = []
    for name, reference in subject.question.labelled:
        if name in arms and reference in arms:
            paired = subject.pair(arms[name], arms[reference], accuracy_on_test)
            if paired is not None:
                found.append(Step(parameter(arms[name], "per_class") or ALL, arms[name], arms[reference], paired))
    return sorted(found, key=lambda step: label_count(step.labels))


def label_count(labels: str) -> float:
    """Return a number of labels to sort by."""
    return float(labels) if labels.isdigit() else float("inf")


def dependence(fewest: Step, most: Step) -> str:
    """Say whether the difference is another one with the fewest labels than with the most, paired by seed."""
    found = pair(fewest.differences, most.differences)
    if found is None:
        return ""
    change = paired_difference(found.values, found.reference)
    said = verdict(change, "larger", "smaller")
    shown = f" ({change.percent()} points)" if change.count > 1 else ""
    return f"The difference with {fewest.label} against that with {most.label}: {said}{shown}."


def _table(subject: Subject, steps: list[Step]) -> Table:
    rows = []
    for step in steps:
        names = [
            Cell((Link(one.marked_label),), look_of(number).color)
            for number, one in ((1, step.arm), (0, step.reference))
        ]
        seeds = seed_cell([one for one in step.arm.members if one.seed in step.found.seeds], subject.links)
        accuracies = [
            subject.number(one, percent_text(mean_of(accuracy_on_test(one)))) for one in (step.arm, step.reference)
        ]
        texts = (step.found.difference.percent(), p_text(step.found.p_value))
        label = Cell((Link(step.labels),))
        both = [part for pair_of in zip(names, accuracies, strict=True) for part in pair_of]
        rows.append((label, seeds, *both, *(subject.number(step.arm, text) for text in texts)))
    columns = ("labels a class", "seeds", "arm", "test acc. %", "reference", "test acc. %", "difference, points", "p")
    return Table(columns, tuple(rows))


def _pictures(subject: Subject, steps: list[Step], several: bool) -> tuple[Picture, ...]:
    accuracies: list[Row] = []
    differences: list[Row] = []
    for step in steps:
        for one, look in ((step.arm, look_of(1)), (step.reference, look_of(0))):
            found = mean_of({seed: 100 * value for seed, value in accuracy_on_test(one).items()})
            assert found is not None, "a paired arm has values"
            values = [100 * value for value in accuracy_on_test(one).values()]
            accuracies.append(Row(one.marked_label, look, found, values))
        change = {seed: 100 * value for seed, value in step.differences.items()}
        shown = mean_of(change)
        assert shown is not None, "a pair has values"
        label = f"{step.label}: {step.arm.marked_label}" if several else step.label
        differences.append(Row(label, look_of(1), shown, list(change.values())))
    return (
        draw_points(
            subject.picture_name("accuracy"), accuracies, title="Test accuracy by number of labels", xlabel="%",
            ceiling=100, alt=f"Test accuracy in percent, mean with 95 % interval: {rows_text(accuracies)}.",
        ),
        draw_points(
            subject.picture_name("difference"), differences, title="Difference by number of labels", xlabel="points",
            zero=True, alt=f"Paired difference in points, mean with 95 % interval: {rows_text(differences)}.",
        ),
    )  # fmt: skip
