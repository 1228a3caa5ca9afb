"""The record of a plan run: one outcome per step, stored as JSON so that the report can be rendered again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from pydantic import TypeAdapter, ValidationError

from pipeline.plan.records import Plan, PlanHeader, Question


@dataclass(frozen=True)
class Outcome:
    """The outcome of one step."""

    arm: str  # name of its arm
    seed: int
    run_id: str  # its run; empty if it failed before a run was created
    reused: bool  # whether a cached result was used
    seconds: float  # wall-clock time in this plan run; near zero for a cached step
    failure: str = ""  # why it failed, or empty


@dataclass(frozen=True)
class ArmName:
    """An arm as the report refers to it."""

    name: str  # in the plan
    label: str  # in tables and figures
    entry_point: str  # of its steps


@dataclass(frozen=True)
class PlanRecord(PlanHeader):
    """A plan run."""

    arms: tuple[ArmName, ...]  # in plan order
    questions: tuple[Question, ...]  # in plan order
    outcomes: tuple[Outcome, ...]  # in the order in which the steps ran
    total_seconds: float  # wall-clock time of all steps
    command: str  # repeats the plan run

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self), indent=1)


def record_of(plan: Plan, outcomes: list[Outcome], *, total_seconds: float, command: str) -> PlanRecord:
    """Return the record of a plan run."""
    return PlanRecord(
        **{field.name: getattr(plan, field.name) for field in fields(PlanHeader)},
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
