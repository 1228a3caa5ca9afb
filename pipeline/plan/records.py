"""A validated plan and the steps it consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.params import StageParams

Setting = dict[str, Any]


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a plan; one step per seed.

    Attributes:
        name: Unique in the plan; an arm of a grid carries its values in its name.
        label: Shown in tables and figures.
        kind: Parameter record of its entry point.
        setting: Its parameters, including the profile's, without seed and base.
        base: Name of the arm whose model it builds on, or empty.
        seeds: Number of seeds; it runs with seeds 0 to seeds - 1.
        grid: Name of the arm in the file that it was expanded from.
    """

    name: str
    label: str
    kind: type[StageParams]
    setting: Setting
    base: str
    seeds: int
    grid: str


@dataclass(frozen=True)
class Question:
    """One question of a plan.

    Attributes:
        key: Its number, such as `2.3`.
        study: Heading of its chapter, such as `A: digits 0-4 to 5-9, an MLP`.
        text: The question itself.
        kind: One of `report.records.KINDS`.
        arms: Names of the arms that answer it.
        reference: Name of the arm they are compared with, or empty.
        labelled: For kind `labels`: pairs of (arm, its reference), one pair per number of labels.
    """

    key: str
    study: str
    text: str
    kind: str
    arms: tuple[str, ...]
    reference: str = ""
    labelled: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """A plan with one of its profiles applied.

    Attributes:
        name: File name without its suffix.
        title: Heading of the report.
        description: One paragraph.
        profile: Name of the profile.
        seeds: Default number of seeds per arm.
        arms: By name; a base comes before the arms that build on it.
        questions: In file order.
    """

    name: str
    title: str
    description: str
    profile: str
    seeds: int
    arms: dict[str, PlannedArm]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Step:
    """One arm with one seed, which is one MLflow run.

    Attributes:
        arm: The arm.
        seed: The seed.
        base: The step whose model it builds on, as (arm, seed), or None.
    """

    arm: PlannedArm
    seed: int
    base: tuple[str, int] | None = field(default=None)

    @property
    def place(self) -> tuple[str, int]:
        """(arm, seed), by which other steps refer to this one."""
        return self.arm.name, self.seed

    def raw_params(self, base_uri: str) -> Setting:
        """Return the run's raw parameters, with the URI of its base model filled in."""
        params: Setting = {**self.arm.setting, "seed": self.seed}
        return {**params, "base": base_uri} if self.base else params


def walk(plan: Plan) -> list[Step]:
    """Return all steps, seed by seed, each after its base."""
    max_seeds = max(arm.seeds for arm in plan.arms.values())
    return [
        Step(arm, seed, (arm.base, seed) if arm.base else None)
        for seed in range(max_seeds)
        for arm in plan.arms.values()
        if seed < arm.seeds
    ]
