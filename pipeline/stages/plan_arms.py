"""Arms of a plan: their parameters, the base that they build on, and arms with other values of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.console import echo
from pipeline.params import StageParams, TargetParams, parse_params
from pipeline.plan.arms import PLACEHOLDER_MODEL
from pipeline.plan.records import Plan, PlannedArm

Arms = Mapping[str, PlannedArm]


def arm_params(arm: PlannedArm) -> StageParams:
    """Return the parameters of an arm, with a placeholder for its base."""
    base = {"base": PLACEHOLDER_MODEL} if "base" in arm.kind.model_fields else {}
    return parse_params(arm.kind, {**arm.setting, **base})


def root_of(arm: PlannedArm, arms: Arms) -> PlannedArm | None:
    """Return the trained base at the end of an arm's chain of bases (or the arm itself); None for a target without."""
    while arm.base:
        arm = arms[arm.base]
    return None if issubclass(arm.kind, TargetParams) else arm


def given(arm: PlannedArm, name: str) -> int:
    """Return the number that a setting gives for a parameter; 0 if it gives none."""
    value = str(arm.setting.get(name, ""))
    return int(value) if value.isdecimal() else 0


def with_values(arm: PlannedArm, values: Mapping[str, int]) -> PlannedArm:
    """Return an arm with other values of parameters, in its name and label too."""
    changed = {name: value for name, value in values.items() if given(arm, name) != value}
    name, label, added = arm.name, arm.label, []
    for parameter, value in changed.items():
        old, new = f"{parameter}={given(arm, parameter)}", f"{parameter}={value}"
        name = name.replace(old, new)
        added += [] if old in label else [new]
        label = label.replace(old, new)
    label += f" ({', '.join(added)})" if added else ""
    return replace(arm, name=name, label=label, setting={**arm.setting, **changed})


def rename_arms(plan: Plan, fitted: Mapping[str, PlannedArm], *, action: str, parameters: Sequence[str]) -> Plan:
    """Return the plan with fitted arms, by their old names; arms of a grid that have become equal are merged.

    Args:
        plan: The plan.
        fitted: Its arms with new names and values.
        action: What was done, for the note that is printed and added to the description.
        parameters: Those that may have changed.
    """
    names = {old: arm.name for old, arm in fitted.items()}
    changes = sorted(
        {
            f"{parameter} {given(plan.arms[old], parameter)} -> {arm.setting[parameter]}"
            for old, arm in fitted.items()
            for parameter in parameters
            if arm.setting.get(parameter) != plan.arms[old].setting.get(parameter)
        }
    )
    if not changes:
        return plan
    note = f"{action}: {', '.join(changes)}."
    echo(note)
    arms = {arm.name: replace(arm, base=names.get(arm.base, "")) for arm in fitted.values()}
    questions = tuple(
        replace(
            question,
            arms=tuple(dict.fromkeys(names[arm] for arm in question.arms)),
            reference=names.get(question.reference, ""),
            labelled=tuple(dict.fromkeys((names[one], names[two]) for one, two in question.labelled)),
        )
        for question in plan.questions
    )
    return replace(plan, description=f"{plan.description} {note}".strip(), arms=arms, questions=questions)
