"""A validated plan, its questions, and the steps it consists of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.params import StageParams

Setting = dict[str, Any]

# kinds of questions; `report/questions/` has a function for each
KINDS = (
    "score",  # test accuracy and precision, learning curves
    "compare",  # test accuracy vs. the reference, paired by seed
    "convergence",  # epochs and seconds to a validation threshold, vs. the reference
    "overfitting",  # training - test accuracy, optionally vs. the reference
    "caching",  # time per epoch and in total on cached features, and the break-even
    "time",  # why training takes longer: epochs, time per epoch, MACs, share of parameters trained
    "labels",  # difference from the reference by number of labels
    "surface",  # accuracy and time over reuse_layers, unfreeze and per_class, and recommended settings
)
RATIO_KINDS = ("convergence", "caching", "time")  # compared as ratios

RATIO_MARGIN = 10.0  # percent
FEW_LABELS = 50  # per class, the largest number with the margin of few labels
MARGIN_FEW, MARGIN_SOME, MARGIN_ALL = 1.0, 0.5, 0.1  # percentage points


# what a claim may expect of an arm, compared with its reference
EXPECTATIONS = ("better", "not worse", "within margin")


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a plan; one step per seed."""

    name: str  # unique in the plan; an arm of a grid carries its values in its name
    label: str  # in tables and figures
    kind: type[StageParams]  # parameter record of its entry point
    setting: Setting  # its parameters, including the profile's, without seed and base
    base: str  # name of the arm whose model it builds on, or empty
    seeds: int  # number of seeds; it runs with seeds 0 to seeds - 1
    grid: str  # name of the arm in the file that it was expanded from
    exclusive: bool | None = None  # whether nothing runs beside its steps; None until its questions are known
    classes_of_seed: Callable[[int], str] | None = None  # returns a seed's class list; None: that of `setting` for all


TIME_QUESTIONS = ("caching", "time")  # kinds whose arms run alone by default


@dataclass(frozen=True)
class Claim:
    """A published claim that a question tests."""

    statement: str  # in one sentence
    expects: str  # one of `EXPECTATIONS`
    source: str  # where it was published


@dataclass(frozen=True)
class Question:
    """One question of a plan."""

    key: str  # its number, such as `2.3`
    study: str  # heading of its chapter, such as `A: digits 0-4 to 5-9, an MLP`
    text: str  # the question itself
    kind: str  # one of `KINDS`
    arms: tuple[str, ...]  # names of the arms that answer it
    reference: str = ""  # name of the arm they are compared with, or empty
    labelled: tuple[tuple[str, str], ...] = ()  # for kind `labels`: (arm, its reference) per number of labels
    margin: float | None = None  # smallest difference that matters; None for the default
    confirmatory: bool = False  # judged with the confirmatory questions of its study; else exploratory
    claim: Claim | None = None  # the published claim that it tests

    @property
    def comparisons(self) -> int:
        """Number of comparisons, each of which has a verdict; 0 for a surface, which chooses them itself."""
        if self.kind in ("score", "surface"):
            return 0
        return len(self.labelled) or (len(set(self.arms) - {self.reference}) if self.reference else 0)


@dataclass(frozen=True)
class PlanHeader:
    """What a plan and the record of a plan run have in common."""

    name: str  # file name of the plan without its suffix
    title: str  # heading of the report
    description: str  # one paragraph
    profile: str  # name of the selected profile
    seeds: int  # default number of seeds per arm


@dataclass(frozen=True)
class Plan(PlanHeader):
    """A plan with one of its profiles applied."""

    arms: dict[str, PlannedArm]  # by name; a base comes before the arms that build on it
    questions: tuple[Question, ...]  # in file order


@dataclass(frozen=True)
class Step:
    """One arm with one seed, which is one MLflow run."""

    arm: PlannedArm
    seed: int
    base: tuple[str, int] | None = None  # (arm, seed) of the step whose model it builds on

    @property
    def place(self) -> tuple[str, int]:
        """(arm, seed), by which other steps refer to this one."""
        return self.arm.name, self.seed

    @property
    def setting(self) -> Setting:
        """The arm's parameters, with the classes of this seed."""
        draw = self.arm.classes_of_seed
        return self.arm.setting if draw is None else {**self.arm.setting, "classes": draw(self.seed)}

    def raw_params(self, base_uri: str) -> Setting:
        """Return the run's raw parameters, with the URI of its base model filled in."""
        params: Setting = {**self.setting, "seed": self.seed}
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


def predecessors(steps: Sequence[Step]) -> dict[int, set[int]]:
    """Return for each step, by its position, the steps that have to be done before it.

    These are its base and, where it takes cached features if there are any, the step that caches them.
    """
    numbers = {step.place: number for number, step in enumerate(steps)}
    caches = defaultdict(set)
    for number, step in enumerate(steps):
        if step.arm.kind.entry_point == "cache_features":
            caches[step.base].add(number)
    graph = {}
    for number, step in enumerate(steps):
        bases = {numbers[step.base]} if step.base in numbers else set()
        graph[number] = bases | (caches[step.base] if step.arm.setting.get("features") == "auto" else set())
    return graph


def default_margin(kind: str, per_class: str) -> float:
    """Return the smallest difference that matters in a kind of question; more labels per class resolve smaller ones.

    It is in percentage points, or in percent for kinds that are compared as ratios. `per_class` that is not a number
    means all labels.
    """
    if kind in RATIO_KINDS:
        return RATIO_MARGIN
    if not per_class.isdigit():
        return MARGIN_ALL
    return MARGIN_FEW if int(per_class) <= FEW_LABELS else MARGIN_SOME
