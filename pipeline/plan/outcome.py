"""What became of a plan: one outcome a step, kept as JSON so that a report can be written again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from pipeline.plan.records import Plan, Question


@dataclass(frozen=True)
class Outcome:
    """What became of one step.

    Attributes:
        arm: Whose.
        seed: Which of its repeats.
        run_id: Its run; empty where it failed before it had one.
        reused: Whether it was recognised as finished.
        seconds: Wall-clock now; next to nothing where it was recognised.
        failure: Why it failed; empty where it did not.
    """

    arm: str
    seed: int
    run_id: str
    reused: bool
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class ArmName:
    """What a report needs to know of an arm.

    Attributes:
        name: In the plan.
        label: In tables and figures.
        entry_point: Of its steps.
    """

    name: str
    label: str
    entry_point: str


@dataclass(frozen=True)
class PlanRecord:
    """A study that was carried out.

    Attributes:
        name: Of the plan.
        title: The report's heading.
        description: In a paragraph.
        profile: The one that was chosen.
        seeds: How many were asked for.
        arms: In the plan's order.
        questions: In the plan's order.
        outcomes: In the order in which they came.
        total_seconds: Wall-clock of all steps.
        command: What repeats it.
    """

    name: str
    title: str
    description: str
    profile: str
    seeds: int
    arms: tuple[ArmName, ...]
    questions: tuple[Question, ...]
    outcomes: tuple[Outcome, ...]
    total_seconds: float
    command: str

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self), indent=1)


def record_of(plan: Plan, outcomes: list[Outcome], total_seconds: float, command: str) -> PlanRecord:
    """Return the record of a plan and its outcomes."""
    return PlanRecord(
        name=plan.name,
        title=plan.title,
        description=plan.description,
        profile=plan.profile,
        seeds=plan.seeds,
        arms=tuple(ArmName(arm.name, arm.label, arm.kind.entry_point) for arm in plan.arms.values()),
        questions=plan.questions,
        outcomes=tuple(outcomes),
        total_seconds=total_seconds,
        command=command,
    )


def record_from_json(text: str) -> PlanRecord:
    """Return the record that a JSON text holds.

    Raises:
        ValueError: It is not one.
    """
    try:
        return TypeAdapter(PlanRecord).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
