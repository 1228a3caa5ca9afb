"""The comparisons that a question makes, and their verdicts.

`primary_comparisons` says which quantity each kind of question is about. The comparisons of a question form a family;
those of a study's confirmatory questions form one together. `judge_family` computes their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.plan.records import RATIO_KINDS, Question, default_margin
from pipeline.report.elements import NO_VALUE, capitalized
from pipeline.report.number_text import interval_text, p_text, ratio_text
from pipeline.report.questions.arm_differences import incomparable_times
from pipeline.report.questions.image_sampling import image_sampling
from pipeline.report.questions.quantities import (
    GAP,
    TEST_ACCURACY,
    TEST_PRECISION,
    TRAINING_TIME,
    Quantity,
    epochs_to,
    equal_epochs_time,
)
from pipeline.report.records import PlanRunFacts, ReportedArm
from pipeline.statistics.estimates import Pairs
from pipeline.statistics.planning import plan_seeds
from pipeline.statistics.verdict import Comparison, Verdict, convergence_flag, judge
from pipeline.tracking import names

THRESHOLD = 0.98
LOWEST_THRESHOLD = min(names.VAL_THRESHOLDS)
NO_PAIRS = Pairs((), (), ())


@dataclass(frozen=True)
class Planned:
    """A comparison that has not been judged yet."""

    question: Question
    arm: ReportedArm
    reference: ReportedArm
    quantity: Quantity
    pairs: Pairs  # the values of both on the seeds that they share

    @property
    def comparison(self) -> Comparison:
        """What the statistics need to know."""
        quantity = self.quantity
        ratio = quantity.compared_as == "ratio"
        margin = self.question.margin if ratio == (self.question.kind in RATIO_KINDS) else None
        if margin is None:
            margin = default_margin("time" if ratio else "compare", self.arm.parameter("per_class"))
        stopped = {one.label: (one.unconverged, len(one.members)) for one in (self.arm, self.reference)}
        return Comparison(
            key=f"{self.question.key}: {self.arm.label}",
            pairs=self.pairs,
            margin=margin / 100 if ratio else margin,
            scale=quantity.compared_as,
            lower_is_better=quantity.lower_is_better,
            unconverged=convergence_flag(stopped),
        )


@dataclass(frozen=True)
class Compared:
    """A judged comparison."""

    planned: Planned
    verdict: Verdict
    family: int  # number of comparisons it was judged with, itself included
    primary: bool  # what the question is about, else exploratory

    @property
    def arm(self) -> ReportedArm:
        """The arm that is better or worse."""
        return self.planned.arm

    @property
    def title(self) -> str:
        """Return what is compared, such as `test accuracy: fine-tuned vs. scratch`."""
        return f"{self.planned.quantity.name}: {self.arm.label} vs. {self.planned.reference.label}"

    @property
    def margin_text(self) -> str:
        """The margin with its unit."""
        margin, unit = self.verdict.margin or 0.0, self.planned.quantity.difference_unit
        return f"{margin:g} {unit}" if unit else f"{100 * margin:g} %"

    @property
    def effect(self) -> str:
        """The difference or ratio with its interval, such as `+2.00 pp (95 % CI +1.21 to +2.79)`."""
        estimate, quantity = self.verdict.estimate, self.planned.quantity
        if estimate is None:
            return NO_VALUE
        if quantity.compared_as == "ratio":
            return ratio_text(estimate, quantity.words)
        digits = quantity.decimals(abs(estimate.mean))
        interval = interval_text(estimate, digits, sign=True)
        return f"{estimate.mean:+.{digits}f} {quantity.difference_unit} ({interval})"

    @property
    def short_effect(self) -> str:
        """The difference or ratio without its interval."""
        return self.effect.split(" (")[0]

    def text(self) -> str:
        """Return effect and both answers, such as `+2.00 pp (95 % CI ...): better; size open (margin ...)`."""
        if self.verdict.sign is None:
            return f"{self.effect}: {self.verdict.answer()}" if self.verdict.count else self.verdict.answer()
        count = "" if self.verdict.preliminary else f", n = {self.verdict.count}"
        return f"{self.effect}: {self.verdict.answer()} (margin {self.margin_text}){count}{self.warning}"

    @property
    def warning(self) -> str:
        """Which arms did not converge, after a semicolon; empty if all did."""
        return f"; {self.verdict.unconverged}" if self.verdict.unconverged else ""

    @property
    def conclusion(self) -> str:
        """What the verdict means, as a sentence in prose."""
        verdict, quantity, reference = self.verdict, self.planned.quantity.name, self.planned.reference.label
        if verdict.sign is None:
            return f"No verdict on {self.arm.label} and {reference} (n = {verdict.count})."
        within = f"differ by less than {self.margin_text} in {quantity}"
        if verdict.sign == "open":
            if verdict.size == "within margin":
                text = f"{self.arm.label} and {reference} {within}"
            else:
                text = f"whether {self.arm.label} and {reference} differ in {quantity} is open"
        else:
            text = f"{self.arm.label} is {verdict.sign} than {reference} in {quantity} ({self.short_effect})"
            text += f"; they {within}" if verdict.size == "within margin" else ""
        prefix = "preliminary: " if verdict.preliminary else ""
        warning = "; not converged" if verdict.unconverged else ""
        return f"{capitalized(prefix + text)} (n = {verdict.count}{warning})."

    @cached_property
    def seeds_needed(self) -> str:
        """How many seeds an open answer needs, such as `17 to 103 seeds`; empty if settled or unknown."""
        verdict, margin = self.verdict, self.planned.comparison.test_margin
        if verdict.settled or verdict.estimate is None or verdict.count < 2 or margin is None:
            return ""
        if not verdict.estimate.deviation:
            return ""
        return plan_seeds(verdict.estimate.deviation, verdict.count, margin, questions=self.family).text()

    @cached_property
    def image_sampling(self) -> str:
        """The standard error from sampling the test images, such as `0.21 pp`."""
        return image_sampling(self.planned.quantity, self.arm, self.planned.reference, pairs=self.planned.pairs)

    def row(self) -> tuple[str, ...]:
        """Return a row of the table of verdicts, see `COLUMNS`."""
        verdict = self.verdict
        worst = NO_VALUE
        if verdict.worst_seed is not None:
            unit = self.planned.quantity.difference_unit
            worst = f"{verdict.worst:+.2f} {unit}" if unit else f"ratio {verdict.worst:.2f}"
            worst = f"{worst} (seed {verdict.worst_seed})"
        prefix = "preliminary: " if verdict.preliminary else ""
        return (
            self.title + ("" if self.primary else " (exploratory)"),
            str(verdict.count),
            self.effect,
            f"{prefix}{verdict.sign}" if verdict.sign else "no verdict",
            f"{prefix}{verdict.size} ({self.margin_text})" if verdict.size else "no verdict",
            f"{p_text(verdict.sign_p)} / {p_text(verdict.size_p)}" if verdict.sign else NO_VALUE,
            self.seeds_needed or NO_VALUE,
            p_text(verdict.sign_flip_p) if verdict.count > 1 else NO_VALUE,
            f"{verdict.wins} of {verdict.count}",
            worst,
            self.image_sampling,
        )


COLUMNS = (
    "comparison", "n", "effect (95 % CI)", "sign", "size (margin)", "adjusted p: sign / size", "seeds needed",
    "sign-flip p", "wins", "worst seed", "image sampling (s.e.)",
)  # fmt: skip


def plan_comparison(question: Question, arm: ReportedArm, reference: ReportedArm, *, quantity: Quantity) -> Planned:
    """Pair a quantity of two arms by seed."""
    return Planned(question, arm, reference, quantity, quantity.pair(arm, reference))


def judge_family(planned: Sequence[Planned], *, primary: bool) -> list[Compared]:
    """Return the verdicts of comparisons that form one family, in order."""
    verdicts = judge([one.comparison for one in planned])
    return [Compared(one, verdict, len(planned), primary) for one, verdict in zip(planned, verdicts, strict=True)]


def judge_question(facts: PlanRunFacts, question: Question) -> list[Compared]:
    """Return the verdicts on a question's primary comparisons, corrected for its family."""
    family = [question]
    if question.confirmatory:
        family = [other for other in facts.questions if other.confirmatory and other.study == question.study]
    planned = [one for member in family for one in primary_comparisons(facts, member)]
    return [one for one in judge_family(planned, primary=True) if one.planned.question == question]


def primary_comparisons(facts: PlanRunFacts, question: Question) -> list[Planned]:
    """Return what a question compares; arms without runs are included, so that they count in the family."""
    if not question.comparisons:
        return []
    pairs = question.labelled or [(name, question.reference) for name in dict.fromkeys(question.arms)]
    arms = [(_arm(facts, name), _arm(facts, reference)) for name, reference in pairs if name != reference]
    everyone = [one for pair in arms for one in pair]
    planned = [
        plan_comparison(question, arm, reference, quantity=primary_quantity(question, arm, reference, arms=everyone))
        for arm, reference in arms
    ]
    if question.kind in ("caching", "time") and incomparable_times([arm for arm in everyone if arm.members]):
        return [Planned(question, one.arm, one.reference, one.quantity, NO_PAIRS) for one in planned]
    return planned


def _arm(facts: PlanRunFacts, name: str) -> ReportedArm:
    return facts.arms.get(name) or ReportedArm(name, name, "", ())


def primary_quantity(
    question: Question, arm: ReportedArm, reference: ReportedArm, *, arms: Iterable[ReportedArm]
) -> Quantity:
    """Return the quantity that a kind of question is about."""
    match question.kind:
        case "compare":
            return TEST_PRECISION if asks_only_for_precision(question) else TEST_ACCURACY
        case "convergence":
            return epochs_to(common_threshold(tuple(one for one in arms if one.members)))
        case "overfitting":
            return GAP
        case "caching":
            return equal_epochs_time(arm, reference)
        case "time":
            return TRAINING_TIME
    return TEST_ACCURACY


def asks_for_precision(question: Question) -> bool:
    """Whether the question mentions precision."""
    return "precis" in question.text.lower()


def asks_only_for_precision(question: Question) -> bool:
    """Whether the question is about precision and does not mention accuracy."""
    return asks_for_precision(question) and "accura" not in question.text.lower()


def common_threshold(arms: Sequence[ReportedArm]) -> float:
    """Return 0.98; 0.95 if every run reached that, but not 0.98."""
    reached, reached_lowest = (
        all(len(epochs_to(threshold).values(arm)) == len(arm.members) for arm in arms)
        for threshold in (THRESHOLD, LOWEST_THRESHOLD)
    )
    return LOWEST_THRESHOLD if reached_lowest and not reached else THRESHOLD
