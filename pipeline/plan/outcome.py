"""The result of a plan run: one outcome per step, stored as JSON so that the report can be rendered again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from pipeline.plan.records import Plan, Question


@dataclass(frozen=True)
class Outcome:
    """The outcome of one step.

    Attributes:
        arm: Name of its arm.
        seed: Its seed.
        run_id: Its run; empty if it failed before a run was created.
        reused: Whether a cached result was used.
        seconds: Wall-clock time in this plan run; near zero for a cached step.
        failure: Why it failed, or empty.
    """

    arm: str
    seed: int
    run_id: str
    reused: bool
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class ArmName:
    """An arm as the report refers to it.

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
    """A plan run.

    Attributes:
        name: Of the plan.
        title: Heading of the report.
        description: One paragraph.
        profile: Name of the profile.
        seeds: Default number of seeds per arm.
        arms: In plan order.
        questions: In plan order.
        outcomes: In the order in which the steps ran.
        total_seconds: Wall-clock time of all steps.
        command: The command that repeats the plan run.
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


def record_of(plan: Plan, outcomes: list[Outcome], *, total_seconds: float, command: str) -> PlanRecord:
    """Return the record of a plan run."""
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
    """Return the record stored as JSON.

    Raises:
        ValueError: The text is not such a record.
    """
    try:
        return TypeAdapter(PlanRecord).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
