"""Load a plan from YAML. A plan with errors is rejected as a whole, before anything runs.

`docs/plans.md` describes the format; `plans/` holds the built-in plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.plan.arms import STEP_ENTRY_POINTS, ArmReader, PlanOverrides
from pipeline.plan.questions import QuestionReader
from pipeline.plan.records import TIME_QUESTIONS, Plan, PlannedArm, Question
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping, read_yaml

PACKAGE = Path(__file__).resolve().parent.parent
PLANS = next(path for path in (PACKAGE / "plans", PACKAGE.parent / "plans") if path.is_dir())  # installed, or a clone
PLAN_KEYS = ("title", "description", "profiles", "common", "arms", "questions")
PROFILE_KEYS = ("extends", "seeds", "params")


def load_plan(text: str, plan_overrides: PlanOverrides) -> Plan:
    """Return a built-in plan, by its name, or the plan in a YAML file.

    Raises:
        UserInputError: The file cannot be read, or the plan has errors (all reported, by line and key).
    """
    known = sorted(path.stem for path in PLANS.glob("*.yaml"))
    path = PLANS / f"{text}.yaml" if text in known else Path(text)
    root = read_yaml("plan", path, suggest(text, known) or f"Give a YAML file, or one of {', '.join(known)}.")
    errors = PlanErrors(path)
    errors.known_keys(root, PLAN_KEYS, "plan")
    profile = select_profile(root, errors, plan_overrides.profile)
    seeds = plan_overrides.seeds or plan_overrides.max_seeds or errors.seeds(profile, 1)
    arms = ArmReader(root, errors, plan_overrides, profile, seeds).read()
    if not arms:
        errors.add(root, "arms", "must name at least one arm.")
    questions = tuple(QuestionReader(root, errors, arms).read())
    if errors.faults:
        raise UserInputError(*errors.faults)
    return Plan(
        name=path.stem,
        title=str(root.get("title", path.stem)),
        description=" ".join(str(root.get("description", "")).split()),
        profile=plan_overrides.profile,
        seeds=seeds,
        arms=with_exclusive(arms, questions),
        questions=questions,
    )


def with_exclusive(arms: Mapping[str, PlannedArm], questions: Sequence[Question]) -> dict[str, PlannedArm]:
    """Return the arms with `exclusive` resolved: by default, those whose time a question asks for run alone."""
    timed = {
        name
        for question in questions
        if question.kind in TIME_QUESTIONS
        for name in (*question.arms, question.reference)
    }
    return {
        name: replace(arm, exclusive=name in timed if arm.exclusive is None else arm.exclusive)
        for name, arm in arms.items()
    }


def is_built_in(text: str) -> bool:
    """Whether `text` names a built-in plan."""
    return "/" not in text and (PLANS / f"{text}.yaml").is_file()


def select_profile(root: LinedMapping, errors: PlanErrors, name: str) -> LinedMapping:
    """Return the profile with a name; empty if there is none (an error)."""
    profiles = errors.mapping(root, "profiles")
    if name not in profiles:
        known = ", ".join(profiles) or "none"
        errors.faults.append(Fault("profile", name, f"{errors.path.name} has {known}.", suggest(name, profiles)))
    profile = errors.mapping(profiles, name)
    errors.known_keys(profile, PROFILE_KEYS, "profile")
    if "extends" in profile:
        profile = extended(profile, profiles, errors)
    params = errors.mapping(profile, "params")
    for entry_point in params:
        if entry_point not in STEP_ENTRY_POINTS:
            errors.add(params, entry_point, "is not an entry point.", remedy=suggest(entry_point, STEP_ENTRY_POINTS))
    return profile


def extended(profile: LinedMapping, profiles: LinedMapping, errors: PlanErrors) -> LinedMapping:
    """Return a profile merged with the profile that it extends."""
    name = str(profile["extends"])
    if name not in profiles or "extends" in errors.mapping(profiles, name):
        errors.add(profile, "extends", f"{name} is not a profile that can be extended.", remedy=suggest(name, profiles))
        return profile
    other, merged = errors.mapping(profiles, name), LinedMapping()
    merged.update({**other, **profile})
    merged.lines = {**other.lines, **profile.lines}
    return merged
