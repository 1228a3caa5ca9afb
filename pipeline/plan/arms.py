"""The arms of a plan: parameters put together, grids spelled out, bases looked up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.errors import UserInputError, suggest
from pipeline.params import ENTRY_POINTS, StageParams, TargetParams, parse_params
from pipeline.plan.records import PlannedArm, Setting
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping

MAX_ARMS = 1000
STEP_ENTRY_POINTS = ("train_base", "tune", "cache_features", "transfer", "finetune_cnn", "scratch_cnn")
SOME_MODEL = "models:/m-" + 32 * "0"  # stands for a base that is not there yet while parameters are checked
FORBIDDEN = ("seed", "base", "dry_run", "params_from")  # a plan says these in its own words, or not at all
ARM_KEYS = ("run", "label", "base", "params", "grid", "seeds", "profiles")


@dataclass(frozen=True)
class PlanOverrides:
    """What the command line asks of a plan.

    Attributes:
        profile: Its name.
        seeds: For every arm; None leaves it to the profile.
        overrides: Parameters that every arm takes which has them, such as `dataset`.
        base_classes: Classes of every base; empty leaves them to the plan.
        target_classes: Classes of every target.
        kinds: The kinds of questions that there are.
    """

    profile: str
    seeds: int | None = None
    overrides: Setting = field(default_factory=dict)
    base_classes: str = ""
    target_classes: str = ""
    kinds: tuple[str, ...] = ()


class ArmReader:
    """Reads the arms of one plan.

    Args:
        root: The whole file.
        faults: Where to note what is wrong.
        wishes: What the command line asks.
        profile: The chosen profile of the file.
        seeds: How many every arm has that says nothing else.
    """

    def __init__(
        self, root: LinedMapping, faults: PlanErrors, plan_overrides: PlanOverrides, profile: LinedMapping, seeds: int
    ):
        self.root, self.faults, self.plan_overrides, self.profile, self.seeds = (
            root,
            faults,
            plan_overrides,
            profile,
            seeds,
        )
        self.listed = faults.mapping(root, "arms")

    def read(self) -> dict[str, PlannedArm]:
        """Return the arms by name, those of grids spelled out, each after its base."""
        found: dict[str, PlannedArm] = {}
        for name in self.listed:
            arm = self.faults.mapping(self.listed, name)
            self.faults.known_keys(arm, ARM_KEYS, "arm")
            for planned in self._one_arm(name, arm):
                found[planned.name] = planned
        if len(found) > MAX_ARMS:
            self.faults.add(self.root, "arms", f"make {len(found)} with their grids; at most {MAX_ARMS} are allowed.")
        for planned in found.values():
            self._check_base(planned, found)
        return found if self.faults.found else bases_first(found)

    def _one_arm(self, name: str, arm: LinedMapping) -> Iterator[PlannedArm]:
        entry_point = str(arm.get("run", ""))
        if entry_point not in STEP_ENTRY_POINTS:
            remedy = suggest(entry_point, STEP_ENTRY_POINTS) or f"Choose one of {', '.join(STEP_ENTRY_POINTS)}."
            where = (arm, "run") if "run" in arm else (self.listed, name)
            self.faults.add(*where, f"run={entry_point or '(nothing)'} is no entry point that a study has.", remedy)
            return
        kind = ENTRY_POINTS[entry_point]
        own_profile = self._own_profile(arm)
        cap = self.faults.seeds(own_profile, self.faults.seeds(arm, self.seeds))
        count = self.plan_overrides.seeds or min(self.seeds, cap)
        base, label = str(arm.get("base") or ""), str(arm.get("label", name))
        for values in self._grid(arm):
            own = {**self.faults.mapping(arm, "params"), **values, **self.faults.mapping(own_profile, "params")}
            setting = self._setting(kind, own)
            suffix = ", ".join(f"{key}={value}" for key, value in values.items())
            planned = PlannedArm(
                name=f"{name}[{suffix}]" if values else name,
                label=f"{label}: {suffix}" if values else label,
                kind=kind, setting=setting, base=base, seeds=count, grid=name,
            )  # fmt: skip
            self._check_params(arm, planned)
            yield planned

    def _own_profile(self, arm: LinedMapping) -> LinedMapping:
        """Return what an arm says of the chosen profile."""
        profiles = self.faults.mapping(arm, "profiles")
        self.faults.known_keys(profiles, tuple(self.faults.mapping(self.root, "profiles")), "plan with these profiles")
        chosen = self.faults.mapping(profiles, self.plan_overrides.profile)
        self.faults.known_keys(chosen, ("seeds", "params"), "profile")
        return chosen

    def _setting(self, kind: type[StageParams], own: Setting) -> Setting:
        """Return an arm's parameters: common, the profile's, its own, the command line's; later ones win."""
        fields = kind.model_fields
        common = {name: value for name, value in self.faults.mapping(self.root, "common").items() if name in fields}
        chosen = self.faults.mapping(self.faults.mapping(self.profile, "params"), kind.entry_point)
        wished = {name: value for name, value in self.plan_overrides.overrides.items() if name in fields}
        classes = (
            self.plan_overrides.target_classes if issubclass(kind, TargetParams) else self.plan_overrides.base_classes
        )
        return {**common, **chosen, **own, **wished, **({"classes": classes} if classes else {})}

    def _grid(self, arm: LinedMapping) -> list[Setting]:
        """Return the combinations of an arm's grid, or of each of several; one empty combination without a grid."""
        grids = arm.get("grid")
        if grids is None:
            return [{}]
        found: list[Setting] = []
        for grid in grids if isinstance(grids, list) else [grids]:
            if (
                not isinstance(grid, LinedMapping)
                or not grid
                or not all(isinstance(v, list) and v for v in grid.values())
            ):
                self.faults.add(arm, "grid", "must give lists of values, such as {reuse_layers: [1, 2, 3]}.")
                continue
            if math.prod(map(len, grid.values())) > MAX_ARMS:
                self.faults.add(arm, "grid", f"makes more than {MAX_ARMS} arms.")
                continue
            found += [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        spelled = [repr(sorted(values.items())) for values in found]
        if len(set(spelled)) != len(spelled):
            self.faults.add(arm, "grid", "names a combination twice.")
        return found

    def _check_params(self, arm: LinedMapping, planned: PlannedArm) -> None:
        params = self.faults.mapping(arm, "params")
        for name in FORBIDDEN:
            if name in planned.setting:
                where = (params, name) if name in params else (self.listed, planned.grid)
                self.faults.add(
                    *where, f"{name} is no parameter of an arm: seeds are counted, base stands outside params."
                )
                return
        raw = {**planned.setting, **({"base": SOME_MODEL} if "base" in planned.kind.model_fields else {})}
        try:
            parse_params(planned.kind, raw)
        except UserInputError as error:
            for fault in error.faults:
                own = fault.name in params
                self.faults.add(params if own else self.listed, fault.name if own else planned.grid, str(fault), "")

    def _check_base(self, planned: PlannedArm, arms: Mapping[str, PlannedArm]) -> None:
        place = self.listed[planned.grid] if isinstance(self.listed[planned.grid], LinedMapping) else self.listed
        takes_base = issubclass(planned.kind, TargetParams)
        if not planned.base:
            if takes_base and planned.kind.entry_point != "scratch_cnn":
                self.faults.add(self.listed, planned.grid, "needs base: the arm whose model it builds on.")
            return
        if not takes_base:
            self.faults.add(place, "base", f"{planned.kind.entry_point} builds on no other arm.")
            return
        base = arms.get(planned.base)
        if base is None:
            grids = {arm.grid for arm in arms.values()}
            why = "is a grid of arms: name one of them." if planned.base in grids else "is not an arm of this plan."
            self.faults.add(place, "base", f"{planned.base} {why}", suggest(planned.base, tuple(arms)))
            return
        if base.kind.entry_point == "cache_features" or base.setting.get("refit") in (False, "false"):
            self.faults.add(place, "base", f"{planned.base} makes no model.")
        if base.seeds < planned.seeds:
            why = f"{planned.base} has {base.seeds} seeds, {planned.name} {planned.seeds}: seed s builds on base s."
            self.faults.add(place, "base", why)
        if _has_cycle(planned.name, arms):
            self.faults.add(place, "base", f"{planned.name} builds on itself, by way of {planned.base}.")


def _has_cycle(name: str, arms: Mapping[str, PlannedArm]) -> bool:
    """Whether an arm builds, by way of others, on itself."""
    place, seen = arms[name].base, {name}
    while place in arms and place:
        if place in seen:
            return place == name
        seen.add(place)
        place = arms[place].base
    return False


def bases_first(arms: Mapping[str, PlannedArm]) -> dict[str, PlannedArm]:
    """Return the arms in their order, each after its base."""
    ordered: dict[str, PlannedArm] = {}
    while len(ordered) < len(arms):
        for arm in arms.values():
            if not arm.base or arm.base in ordered:
                ordered.setdefault(arm.name, arm)
    return ordered
