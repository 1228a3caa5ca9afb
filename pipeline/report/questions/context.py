"""A question with the arms that are there to answer it, and the sentences that every kind of answer needs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pipeline.plan.records import Question
from pipeline.report.charts import Look, Row, Series, look_of
from pipeline.report.elements import Cell, Link, Links, cell, listed, seed_cell
from pipeline.report.questions import paired_values
from pipeline.report.questions.paired_values import Pairing, Values, mean_of, pair
from pipeline.report.records import PlanRunFacts, ReportedArm
from pipeline.report.statistics import verdict
from pipeline.tracking import names

# what no comparison is about: which seed, where files lie, and what changes no result
UNCOMPARED_PARAMS = (
    "seed", "base", "data_dir", "register_as", "dry_run", "checkpoint_every", "folder", "workers", "study",
    "params_from",
)  # fmt: skip
LONGEST_REASON = 240  # characters; the run itself holds all of it
ONE_SEED = "one seed, no verdict"
UNSHOWN = "no difference shown"


@dataclass(frozen=True)
class Subject:
    """What one question is answered from.

    Attributes:
        question: As the plan asks it.
        arms: Those that have finished runs, the reference first.
        reference: What the others are compared with; None where there is none, or it did not finish.
        links: To the runs.
        position: Of the question in the study, from 1: it makes names of pictures unique.
        looks: How each arm is drawn, by name.
        notes: On what is missing, and how arms were paired; answers add theirs.
    """

    question: Question
    arms: tuple[ReportedArm, ...]
    reference: ReportedArm | None
    links: Links
    position: int
    looks: dict[str, Look]
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> tuple[ReportedArm, ...]:
        """The arms that are not the reference."""
        return tuple(arm for arm in self.arms if arm is not self.reference)

    def picture_name(self, what: str) -> str:
        """Return a file name for a picture of this question."""
        key = "".join(letter if letter.isalnum() else "_" for letter in self.question.key)
        return f"{self.position:02d}_question_{key}_{what}"

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text and text not in self.notes:
            self.notes.append(text)

    def pair(self, arm: ReportedArm, reference: ReportedArm, of: Callable[[ReportedArm], Values]) -> Pairing | None:
        """Pair an arm with a reference by seed; say so where one has seeds that the other lacks."""
        mine, theirs = of(arm), of(reference)
        found = pair(mine, theirs)
        if found is None:
            self.note(f"{arm.label} and {reference.label} have no seed in common and are not compared.")
        elif mine.keys() != theirs.keys():
            seeds = listed([str(seed) for seed in found.seeds])
            word = "seed" if len(found.seeds) == 1 else "seeds"
            self.note(f"{arm.label} and {reference.label} are paired on the {word} that both have: {seeds}.")
        return found

    def times_compare(self) -> bool:
        """Whether the arms' times may be compared; says why where they may not."""
        why = paired_values.why_times_differ(self.arms)
        self.note(why)
        return not why

    def first_cells(self, arm: ReportedArm) -> list[Cell]:
        """Return the cells that each table begins with: the arm, and its seeds with their links."""
        return [Cell((Link(arm.marked_label),), self.looks[arm.name].color), seed_cell(arm.members, self.links)]

    def number(self, arm: ReportedArm, text: str) -> Cell:
        """Return a number's cell, leading to the arm's runs."""
        return cell(text, self.links.runs(arm))

    def row(self, arm: ReportedArm, values: Values, *, scale: float = 1.0, second: Values | None = None) -> Row | None:
        """Return an arm's row in a panel; None where it has no such values."""
        found = mean_of({seed: scale * value for seed, value in values.items()})
        if found is None:
            return None
        beside = mean_of({seed: scale * value for seed, value in (second or {}).items()})
        drawn = [scale * values[seed] for seed in sorted(values)]
        return Row(arm.marked_label, self.looks[arm.name], found, drawn, beside)

    def series(self, name: str, *, scale: float = 1.0, label: str = "", faint: bool = False) -> list[Series]:
        """Return the arms' curves of a metric; arms without it are left out."""
        found = []
        for arm in self.arms:
            curves = [member.run.curves.get(name, []) for member in arm.members]
            if all(curves):
                scaled = tuple([scale * value for value in curve] for curve in curves)
                found.append(Series(f"{arm.marked_label}{label}", self.looks[arm.name], scaled, faint))
        return found


def subject_of(facts: PlanRunFacts, question: Question, links: Links) -> Subject:
    """Gather a question's arms, and say which of them are missing."""
    wanted = dict.fromkeys([*([question.reference] if question.reference else []), *question.arms])
    for both in question.labelled:
        wanted |= dict.fromkeys(both)
    arms = [facts.arms[name] for name in wanted if name in facts.arms and facts.arms[name].members]
    reference = facts.arms.get(question.reference)
    first = 0 if question.reference else 1
    looks = {name: look_of(number) for number, name in enumerate(wanted, first)}
    found = Subject(
        question, tuple(arms), reference if reference and reference.members else None, links,
        facts.questions.index(question) + 1, looks,
    )  # fmt: skip
    for name in wanted:
        for line in missing_lines(facts, name):
            found.note(line)
    return found


def missing_lines(facts: PlanRunFacts, name: str) -> list[str]:
    """Say which runs of an arm are missing, and why."""
    arm = facts.arms.get(name)
    if arm is None:
        return [f'Arm "{name}" is missing: it was not run.']
    if not arm.members:
        why = listed(list(dict.fromkeys(reason for _, reason in arm.failures))) if arm.failures else "it was not run"
        return [f'Arm "{arm.label}" is missing: {_short(why)}.']
    return [f'Arm "{arm.label}" lacks seed {seed}: {_short(reason)}.' for seed, reason in arm.failures]


def _short(reason: str) -> str:
    """Return a reason on one line, without the stop that the sentence adds."""
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...").removesuffix(".")


def grouped_verdicts(
    pairings: Sequence[tuple[ReportedArm, Pairing]], *, better: str = "ahead", worse: str = "behind",
    unit: str = "points", scale: float = 100, digits: int = 2,
) -> str:  # fmt: skip
    """Say of several arms what their paired differences show, those alike together, such as `ahead: A by 1.28 points`.

    Args:
        pairings: Of each arm with the reference.
        better: What to say of a positive difference.
        worse: What to say of a negative one.
        unit: Of the differences as they are shown.
        scale: They are shown times this.
        digits: After the point.
    """
    groups: dict[str, list[str]] = {better: [], worse: [], UNSHOWN: [], ONE_SEED: []}
    for arm, found in pairings:
        difference = found.difference
        if difference.count < 2:
            groups[ONE_SEED].append(arm.label)
        elif not difference.excludes_zero:
            groups[UNSHOWN].append(f"{arm.label} (n = {difference.count})")
        else:
            shown = f"{scale * abs(difference.mean):.{digits}f} {unit}"
            side = better if difference.mean > 0 else worse
            groups[side].append(f"{arm.label} by {shown} (n = {difference.count})")
    return "; ".join(f"{what}: {', '.join(arms)}" for what, arms in groups.items() if arms)


def verdict_line(
    subject: Subject, of: Callable[[ReportedArm], Values], *, better: str, worse: str, unit: str, scale: float = 100,
    digits: int = 2, symbol: str = "",
) -> str:  # fmt: skip
    """Say how the arms stand to the reference in some values; empty where nothing can be paired."""
    assert subject.reference is not None
    paired = [(arm, subject.pair(arm, subject.reference, of)) for arm in subject.others]
    there = [(arm, found) for arm, found in paired if found is not None]
    if not there:
        return ""
    if len(there) == 1:
        arm, found = there[0]
        said = verdict(found.difference, better, worse, unit=unit, scale=scale, digits=digits)
        symbol = symbol or ("%" if unit == "points" else unit)
        mine, theirs = (f"{scale * fmean(side):.{digits}f} {symbol}" for side in (found.values, found.reference))
        return f"{arm.label} {mine}, {subject.reference.label} {theirs}: {said}"
    said = grouped_verdicts(there, better=better, worse=worse, unit=unit, scale=scale, digits=digits)
    return f"against {subject.reference.label}: {said}"


def differing_params(arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return the parameters that all arms have and in which they differ, each with the arms' values in order."""
    found = {}
    for name in sorted(set.intersection(*map(_params_of, arms))):
        values = [paired_values.parameter(arm, name) for arm in arms]
        if len(set(values)) > 1:
            found[name] = values
    return found


def own_params(arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return the parameters of each of some arms that not all of them have, as texts, by the arm's label."""
    shared = set.intersection(*map(_params_of, arms))
    found = {
        arm.label: [f"{name} {paired_values.parameter(arm, name)}" for name in sorted(_params_of(arm) - shared)]
        for arm in arms
    }
    return {label: texts for label, texts in found.items() if texts}


def _params_of(arm: ReportedArm) -> set[str]:
    return {name for member in arm.members for name in member.run.params} - set(UNCOMPARED_PARAMS)


def continued_from(arms: Sequence[ReportedArm]) -> list[tuple[ReportedArm, ReportedArm]]:
    """Return which arms build on runs of which other arms among the same ones."""
    owner = {member.run.run_id: arm for arm in arms for member in arm.members}
    found = []
    for arm in arms:
        bases = dict.fromkeys(member.run.tags.get(names.BASE_RUN_ID, "") for member in arm.members)
        for base in dict.fromkeys(owner[run_id].name for run_id in bases if run_id in owner):
            found.append((arm, next(one for one in arms if one.name == base)))
    return found
