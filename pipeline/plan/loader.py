"""Reading a plan: YAML, refused whole with all of its faults by line and key, before anything runs.

See `docs/plans.md` for the format, and `plans/` for the ones that ship.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.plan.arms import STEP_ENTRY_POINTS, ArmReader, PlanOverrides
from pipeline.plan.questions import QuestionReader
from pipeline.plan.records import Plan
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping, read_yaml

PLANS = Path(__file__).resolve().parent.parent.parent / "plans"
PLAN_KEYS = ("title", "description", "profiles", "common", "arms", "questions")
PROFILE_KEYS = ("seeds", "params")


def load_plan(text: str, plan_overrides: PlanOverrides) -> Plan:
    """Return a plan by its name among those that ship, or by its file.

    Raises:
        UserInputError: It cannot be read, or holds faults; each is named by line and key, all together.
    """
    known = sorted(found.stem for found in PLANS.glob("*.yaml"))
    path = plan_path(text)
    root = read_yaml("plan", path, suggest(text, known) or f"Give a YAML file, or one of {', '.join(known)}.")
    faults = PlanErrors(path)
    faults.known_keys(root, PLAN_KEYS, "plan")
    profile = chosen_profile(root, faults, plan_overrides.profile)
    seeds = plan_overrides.seeds or faults.seeds(profile, 1)
    arms = ArmReader(root, faults, plan_overrides, profile, seeds).read()
    if not arms:
        faults.add(root, "arms", "there are none.")
    questions = tuple(QuestionReader(root, faults, plan_overrides.kinds, arms).read())
    if faults.found:
        raise UserInputError(*faults.found)
    description = " ".join(str(root.get("description", "")).split())
    return Plan(
        path.stem, str(root.get("title", path.stem)), description, plan_overrides.profile, seeds, arms, questions
    )


def plan_path(text: str) -> Path:
    """Return the file of a plan that ships, or the file that was named."""
    shipped = PLANS / f"{text}.yaml"
    return shipped if "/" not in text and shipped.is_file() else Path(text)


def chosen_profile(root: LinedMapping, faults: PlanErrors, name: str) -> LinedMapping:
    """Return a profile of a plan, an empty one where there is none of that name (a fault)."""
    profiles = faults.mapping(root, "profiles")
    if name not in profiles:
        known = ", ".join(profiles) or "none"
        faults.found.append(Fault("profile", name, f"{faults.path.name} has {known}.", suggest(name, profiles)))
    profile = faults.mapping(profiles, name)
    faults.known_keys(profile, PROFILE_KEYS, "profile")
    params = faults.mapping(profile, "params")
    for entry_point in params:
        if entry_point not in STEP_ENTRY_POINTS:
            faults.add(params, entry_point, "is not an entry point.", suggest(entry_point, STEP_ENTRY_POINTS))
    return profile
