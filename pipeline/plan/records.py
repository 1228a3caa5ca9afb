"""What a plan says, after it was read and found good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.params import StageParams

Setting = dict[str, Any]


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a study; one step a seed.

    Attributes:
        name: Unique in the plan; an arm of a grid is named after its values.
        label: What tables and figures call it.
        kind: The parameter record of its entry point.
        setting: Its parameters, those of the profile included, without seed and base.
        base: The arm whose model it builds on; empty where there is none.
        seeds: It is run with seeds 0 to this - 1.
        grid: The arm of the file that it was made from; its own name where that has no grid.
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
    """One question of a study.

    Attributes:
        key: How it is referred to, such as `2.3`.
        study: The heading it stands under, such as `A: digits 0-4 to 5-9, an MLP`.
        text: In words.
        kind: One of `report.records.KINDS`.
        arms: The arms that answer it.
        reference: The arm that they are compared with; empty where there is none.
        labelled: For kind `labels`: pairs of (arm, its own reference), one pair for each number of labels.
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
    """A study as data.

    Attributes:
        name: Of the file, without its ending.
        title: The report's heading.
        description: What is done, in a paragraph.
        profile: The one that was chosen.
        seeds: How many were asked for.
        arms: By name; a base comes before what builds on it.
        questions: In the file's order.
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
    """One run that a plan asks for.

    Attributes:
        arm: Whose.
        seed: Which of its repeats.
        base: The step whose model it builds on, as (arm, seed); None where there is none.
    """

    arm: PlannedArm
    seed: int
    base: tuple[str, int] | None = field(default=None)

    @property
    def place(self) -> tuple[str, int]:
        """What other steps refer to it by."""
        return self.arm.name, self.seed

    def raw_params(self, base_uri: str) -> Setting:
        """Return the raw parameters of its run, the base's model filled in."""
        own: Setting = {**self.arm.setting, "seed": self.seed}
        return {**own, "base": base_uri} if self.base else own


def walk(plan: Plan) -> list[Step]:
    """Return the steps in an order in which every base comes before what builds on it, seed by seed."""
    most = max(arm.seeds for arm in plan.arms.values())
    return [
        Step(arm, seed, (arm.base, seed) if arm.base else None)
        for seed in range(most)
        for arm in plan.arms.values()
        if seed < arm.seeds
    ]
