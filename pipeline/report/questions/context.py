"""A question with its arms, and what every kind of answer needs: pairing, verdicts, tables and charts."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean

import numpy as np

from pipeline.plan.records import Question
from pipeline.report.chart_frame import ChartText, SeriesStyle, style_of
from pipeline.report.elements import Cell, Chart, Link, Table, joined, seed_cell, text_cell, text_table
from pipeline.report.line_chart import Series
from pipeline.report.questions.arm_differences import incomparable_times
from pipeline.report.questions.comparisons import COLUMNS, Compared, judge_family, judge_question, plan_comparison
from pipeline.report.questions.quantities import Quantity
from pipeline.report.records import Links, PlanRunFacts, ReportedArm
from pipeline.report.row_charts import Row, bar_chart, point_chart, rows_text
from pipeline.statistics.estimates import Pairs
from pipeline.tracking import names

MAX_REASON = 240  # characters of a failure; the run has all of it
Column = tuple[str, Callable[[ReportedArm], str]]  # heading, text of an arm's cell


@dataclass(frozen=True)
class QuestionContext:
    """What a question is answered from."""

    question: Question  # from the plan
    arms: tuple[ReportedArm, ...]  # arms with at least one finished run, the reference first
    reference: ReportedArm | None  # what the others are compared with; None without one, or if it has no finished run
    links: Links  # to the runs
    position: int  # of the question in the plan, from 1; makes chart names unique
    styles: dict[str, SeriesStyle]  # how each arm is drawn, by name
    primary: tuple[Compared, ...] = ()  # verdicts on what the question is about; finished arms only
    notes: list[str] = field(default_factory=list)  # caveats, collected while the answer is computed
    secondary: list[Compared] = field(default_factory=list)  # other verdicts, collected likewise

    @property
    def others(self) -> tuple[ReportedArm, ...]:
        """The arms that are compared with the reference."""
        return tuple(arm for arm in self.arms if arm is not self.reference)

    @property
    def reference_arm(self) -> ReportedArm:
        """The reference, in kinds of questions that always have one."""
        assert self.reference is not None, "dispatch answers such a question without its reference"
        return self.reference

    def note(self, text: str) -> None:
        """Add a note unless it is empty or a duplicate."""
        if text and text not in self.notes:
            self.notes.append(text)

    def times_comparable(self) -> bool:
        """Whether the arms' times can be compared; notes the reason if not."""
        reason = incomparable_times(self.arms)
        self.note(reason)
        return not reason

    def pair(self, arm: ReportedArm, quantity: Quantity) -> Pairs:
        """Pair an arm with the reference; notes the seeds that are left out."""
        return self._noted(arm, self.reference_arm, quantity)

    def _noted(self, arm: ReportedArm, reference: ReportedArm, quantity: Quantity) -> Pairs:
        pairs = quantity.pair(arm, reference)
        seeds = {seed for one in (arm, reference) for seed in quantity.values(one)}
        if not pairs.seeds:
            self.note(f"{arm.label} and {reference.label} share no seed and are not compared.")
        elif seeds != set(pairs.seeds):
            word = "seed" if len(pairs.seeds) == 1 else "seeds"
            listed = joined([str(seed) for seed in pairs.seeds])
            self.note(f"{arm.label} and {reference.label} are paired on their shared {word}: {listed}.")
        return pairs

    def main_comparison(self, title: str) -> str:
        """Return the verdicts on what the question is about as a sentence; empty without shared seeds."""
        for one in self.primary:
            self._noted(one.arm, one.planned.reference, one.planned.quantity)
        return _sentence([one for one in self.primary if one.verdict.count], title)

    def comparison(self, quantity: Quantity, title: str) -> str:
        """Return exploratory verdicts on another quantity as a sentence; empty without shared seeds."""
        planned = [plan_comparison(self.question, arm, self.reference_arm, quantity=quantity) for arm in self.others]
        compared = judge_family([one for one in planned if self.pair(one.arm, quantity).seeds], primary=False)
        self.secondary.extend(compared)
        return _sentence(compared, title)

    @property
    def verdicts(self) -> Table:
        """The table of all verdicts."""
        rows = [*self.primary, *self.secondary]
        return text_table(COLUMNS, [one.row() for one in rows if one.verdict.count])

    def table(self, *columns: Column) -> Table:
        """Return a table with one row per arm: label, seeds, then linked numbers."""
        rows = []
        for arm in self.arms:
            label = Cell((Link(arm.marked_label, self.links.runs(arm)),), self.styles[arm.name].color)
            numbers = (self.number(arm, text(arm)) for _, text in columns)
            rows.append((label, seed_cell(arm.members, self.links), *numbers))
        return Table(("arm", "seeds", *(heading for heading, _ in columns)), tuple(rows))

    def number(self, arm: ReportedArm, text: str) -> Cell:
        """Return a cell that links to the arm's runs."""
        return text_cell(text, self.links.runs(arm))

    def chart_text(self, name: str, title: str, alt: str, *, xlabel: str = "epoch", ylabel: str = "") -> ChartText:
        """Return the texts of a chart, with a file name that is unique in the report."""
        key = "".join(letter if letter.isalnum() else "_" for letter in self.question.key)
        return ChartText(f"{self.position:02d}_question_{key}_{name}", title, alt, xlabel, ylabel)

    def rows(self, quantity: Quantity, hollow: Quantity | None = None) -> list[Row]:
        """Return a chart row for each arm with values of a quantity, and optionally of a second one."""
        return [
            Row(arm.marked_label, self.styles[arm.name], values, hollow.mean(arm) if hollow else None, quantity.bounds)
            for arm in self.arms
            if (values := tuple(quantity.values(arm).values()))
        ]

    def bars(self, quantity: Quantity, name: str, title: str) -> list[Chart]:
        """Draw a quantity as one bar per arm; an empty list without values."""
        rows = self.rows(quantity)
        alt = f"{title} ({quantity.unit}), mean with 95 % CI: {rows_text(rows)}."
        return [bar_chart(self.chart_text(name, title, alt, xlabel=quantity.unit), rows)] if rows else []

    def points(
        self, quantity: Quantity, name: str, title: str, *, hollow: Quantity | None = None, legend: str = "",
        connected: bool = False,
    ) -> list[Chart]:  # fmt: skip
        """Draw a quantity as one filled marker per arm, and optionally a second one as a hollow marker.

        `legend` explains the two markers, `connected` joins them by a line. Returns an empty list without values.
        """
        rows = self.rows(quantity, hollow)
        what = f" ({legend})" if legend else ""
        alt = f"{title} ({quantity.unit}), mean with 95 % CI, seeds as ticks{what}: {rows_text(rows)}."
        xlabel = f"{quantity.unit}\n{legend}" if legend else quantity.unit
        text = self.chart_text(name, title, alt, xlabel=xlabel)
        bounded, zero = quantity.unit == "%", quantity.unit == "pp"
        return [point_chart(text, rows, bounded=bounded, zero=zero, connected=connected)] if rows else []

    def series(
        self, name: str, *, scale: float = 1.0, label: str = "", faint: bool = False, by_time: bool = False
    ) -> list[Series]:
        """Return the learning curves of a metric, for each arm whose runs all have it.

        Values are multiplied by `scale`; `label` is appended to the arm's. With `by_time`, x is the training time,
        averaged over seeds, instead of the epoch.
        """
        series = []
        for arm in self.arms:
            curves = [member.run.curves.get(name, []) for member in arm.members]
            times = [member.run.curves.get(names.EPOCH_SECONDS, []) for member in arm.members]
            length = min(map(len, [*curves, *times])) if by_time else min(map(len, curves))
            if not length:
                continue
            elapsed = np.array([curve[:length] for curve in times]).cumsum(1).mean(0).tolist() if by_time else None
            scaled = tuple([scale * value for value in curve] for curve in curves)
            x = elapsed or range(1, length + 1)
            series.append(Series(f"{arm.marked_label}{label}", self.styles[arm.name], x, scaled, faint))
        return series


def _sentence(compared: Sequence[Compared], title: str) -> str:
    """Return one comparison with its means, or several grouped by their verdicts; empty for none."""
    if not compared:
        return ""
    reference = compared[0].planned.reference.label
    if len(compared) == 1:
        (one,) = compared
        pairs, quantity = one.planned.pairs, one.planned.quantity
        mean, other = (quantity.number(fmean(side)) for side in (pairs.values, pairs.reference))
        return f"{title}: {one.arm.label} {mean}, {reference} {other}: {one.text()}."
    groups: dict[str, list[str]] = {}
    for one in compared:
        groups.setdefault(one.verdict.answer(), []).append(f"{one.arm.label} ({one.short_effect}{one.warning})")
    return f"{title} vs. {reference}: " + "; ".join(f"{word}: {', '.join(arms)}" for word, arms in groups.items()) + "."


def context_of(facts: PlanRunFacts, question: Question) -> QuestionContext:
    """Collect the arms of a question; arms and seeds without a finished run become notes."""
    wanted = arm_names(question)
    reference = facts.arms.get(question.reference)
    context = QuestionContext(
        question=question,
        arms=tuple(facts.arms[name] for name in wanted if name in facts.arms and facts.arms[name].members),
        reference=reference if reference and reference.members else None,
        links=facts.links,
        position=facts.questions.index(question) + 1,
        styles=arm_styles(facts, question.study),
        primary=tuple(one for one in judge_question(facts, question) if one.arm.members),
    )
    for line in missing_runs(facts, wanted):
        context.note(line)
    return context


def arm_styles(facts: PlanRunFacts, study: str) -> dict[str, SeriesStyle]:
    """Return how each arm of a study is drawn, the same in all of its questions; gray for the usual reference."""
    questions = [question for question in facts.questions if question.study == study]
    references = Counter(question.reference for question in questions if question.reference)
    usual = [name for name, _ in references.most_common(1)]
    arms = dict.fromkeys(name for question in questions for name in arm_names(question) if name not in usual)
    return {name: style_of(number) for number, name in enumerate([*usual, *arms], 0 if usual else 1)}


def arm_names(question: Question) -> list[str]:
    """Return the distinct arms of a question, the reference first."""
    return list(dict.fromkeys(filter(None, [question.reference, *question.arms, *chain(*question.labelled)])))


def missing_runs(facts: PlanRunFacts, arms: Iterable[str]) -> list[str]:
    """Return one sentence per arm without runs, and per failed run of the others."""
    lines = []
    for name in arms:
        arm = facts.arms.get(name)
        if arm is None:
            lines.append(f'Arm "{name}" is missing: not run.')
        elif not arm.members:
            reasons = list(dict.fromkeys(reason for _, reason in arm.failures)) or ["not run"]
            lines.append(f'Arm "{arm.label}" is missing: {_shortened(joined(reasons))}.')
        else:
            lines += [f'Arm "{arm.label}" is missing seed {seed}: {_shortened(why)}.' for seed, why in arm.failures]
    return lines


def _shortened(reason: str) -> str:
    return textwrap.shorten(reason, MAX_REASON, placeholder=" ...").removesuffix(".")
