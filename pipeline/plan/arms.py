"""The arms of a plan: merged parameters, expanded grids, resolved bases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from pipeline.errors import UserInputError, suggest
from pipeline.params import ENTRY_POINTS, StageParams, TargetParams, parse_params
from pipeline.params.family import OWN_PREFIX
from pipeline.plan.records import PlannedArm, Setting
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping, without_lines

MAX_ARMS = 1000
STEP_ENTRY_POINTS = ("train_base", "tune", "cache_features", "probe", "transfer", "finetune_cnn", "scratch_cnn")
PLACEHOLDER_MODEL = "models:/m-" + 32 * "0"  # for a base that does not exist yet while parameters are checked
EXISTING_BASE = "import_base"  # as `run` of an arm: the base is given with -P base=URI; nothing is run
RESERVED = ("seed", "base", "dry_run", "params_from")  # set by the plan itself, or not allowed in one
ARM_KEYS = ("run", "label", "base", "params", "grid", "seeds", "profiles", "exclusive")


@dataclass(frozen=True)
class PlanOverrides:
    """Command-line overrides that apply to every arm."""

    profile: str  # name of the profile
    seeds: int | None = None  # number of seeds per arm; None for the profile's
    overrides: Setting = field(default_factory=dict)  # parameters for every arm that has them, such as `dataset`
    base_classes: str = ""  # classes of every base; empty for the plan's
    target_classes: str = ""  # classes of every target; empty for the plan's
    max_seeds: int | None = None  # replaces the profile's number, but not an arm's own maximum


@dataclass(frozen=True)
class ArmReader:
    """Reads the arms of one plan."""

    root: LinedMapping  # the whole file
    errors: PlanErrors  # collects what is wrong
    plan_overrides: PlanOverrides
    profile: LinedMapping  # the selected profile
    seeds: int  # default number of seeds per arm

    @cached_property
    def entries(self) -> LinedMapping:
        """The arms as they are in the file, by name."""
        return self.errors.mapping(self.root, "arms")

    def read(self) -> dict[str, PlannedArm]:
        """Return the arms by name, grids expanded, each after its base."""
        arms: dict[str, PlannedArm] = {}
        for name in self.entries:
            entry = self.errors.mapping(self.entries, name)
            self.errors.known_keys(entry, ARM_KEYS, "arm")
            arms |= {arm.name: arm for arm in self._expand(name, entry)}
        if len(arms) > MAX_ARMS:
            self.errors.add(self.root, "arms", f"expand to {len(arms)} arms; at most {MAX_ARMS} are allowed.")
        for arm in arms.values():
            self._check_base(arm, arms)
        self._check_cycles(arms)
        return arms if self.errors.faults else _bases_first(arms)

    def _expand(self, name: str, entry: LinedMapping) -> Iterator[PlannedArm]:
        """Yield one arm for each combination of its grid."""
        entry_point = str(entry.get("run", ""))
        if entry_point not in (*STEP_ENTRY_POINTS, EXISTING_BASE):
            remedy = suggest(entry_point, STEP_ENTRY_POINTS) or f"Choose one of {', '.join(STEP_ENTRY_POINTS)}."
            place = (entry, "run") if "run" in entry else (self.entries, name)
            self.errors.add(
                *place, f"run={entry_point or '(nothing)'} is not an entry point of a plan step.", remedy=remedy
            )
            return
        kind = ENTRY_POINTS[entry_point]
        arm_profile = self._arm_profile(entry)
        max_seeds = self.errors.seeds(arm_profile, self.errors.seeds(entry, self.seeds))
        label = str(entry.get("label", name))
        for values in self._grid(entry):
            params = {**self.errors.mapping(entry, "params"), **values, **self.errors.mapping(arm_profile, "params")}
            suffix = ", ".join(f"{key}={value}" for key, value in values.items())
            arm = PlannedArm(
                name=f"{name}[{suffix}]" if values else name,
                label=f"{label}: {suffix}" if values else label,
                kind=kind,
                setting=self._setting(kind, params),
                base=str(entry.get("base") or ""),
                seeds=self.plan_overrides.seeds or min(self.seeds, max_seeds),
                grid=name,
                exclusive=self._exclusive(entry),
            )
            self._check_params(entry, arm)
            yield arm

    def _arm_profile(self, entry: LinedMapping) -> LinedMapping:
        """Return an arm's own settings for the selected profile."""
        profiles = self.errors.mapping(entry, "profiles")
        self.errors.known_keys(profiles, tuple(self.errors.mapping(self.root, "profiles")), "plan with these profiles")
        name = self.plan_overrides.profile
        profile = self.errors.mapping(profiles, name if name in profiles else str(self.profile.get("extends")))
        self.errors.known_keys(profile, ("seeds", "params"), "profile")
        return profile

    def _setting(self, kind: type[StageParams], params: Setting) -> Setting:
        """Merge parameters: common, the profile's, the arm's, the command line's; later ones win."""
        overrides = self.plan_overrides
        common = self.errors.mapping(self.root, "common")
        by_profile = self.errors.mapping(self.errors.mapping(self.profile, "params"), kind.entry_point)
        classes = overrides.target_classes if issubclass(kind, TargetParams) else overrides.base_classes
        setting = {
            **{name: value for name, value in common.items() if name in kind.model_fields},
            **by_profile,
            **params,
            **{name: value for name, value in overrides.overrides.items() if name in kind.model_fields},
            **({"classes": classes} if classes else {}),
        }
        return {name: without_lines(value) for name, value in setting.items()}

    def _exclusive(self, entry: LinedMapping) -> bool | None:
        """Return whether an arm's steps run alone; None if it does not say."""
        value = entry.get("exclusive")
        if value is not None and not isinstance(value, bool):
            self.errors.add(entry, "exclusive", "must be true or false.")
            return None
        return value

    def _grid(self, entry: LinedMapping) -> list[Setting]:
        """Return all combinations of an arm's grid or grids; one empty combination without a grid."""
        grids = entry.get("grid")
        if grids is None:
            return [{}]
        combinations: list[Setting] = []
        for grid in grids if isinstance(grids, list) else [grids]:
            is_mapping = isinstance(grid, LinedMapping) and bool(grid)
            if not is_mapping or not all(isinstance(values, list) and values for values in grid.values()):
                self.errors.add(entry, "grid", "must give lists of values, such as {reuse_layers: [1, 2, 3]}.")
                continue
            if math.prod(map(len, grid.values())) > MAX_ARMS:
                self.errors.add(entry, "grid", f"expands to more than {MAX_ARMS} arms.")
                continue
            combinations += [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        distinct = {repr(sorted(values.items())) for values in combinations}
        if len(distinct) != len(combinations):
            self.errors.add(entry, "grid", "has a duplicate combination.")
        return combinations

    def _check_params(self, entry: LinedMapping, arm: PlannedArm) -> None:
        def add(name: str, allowed: str, remedy: str) -> None:
            params = self.errors.mapping(entry, "params")
            place = (params, name) if name in params else (self.entries, arm.grid)
            self.errors.add(*place, allowed, remedy=remedy)

        if reserved := next((name for name in RESERVED if name in arm.setting), None):
            add(reserved, f"{reserved} is not a parameter of an arm.", "See seeds and base in docs/plans.md.")
            return
        if str(arm.setting.get("model", "")).startswith(OWN_PREFIX):
            add("model", "a plan never runs your own code.", "Import the network with import_base.")
            return
        if arm.kind.entry_point == EXISTING_BASE:
            if entry.keys() & {"params", "grid"}:
                add(arm.grid, "an existing base takes no params.", "It is given with -P base=URI.")
            return
        raw = {**arm.setting, **({"base": PLACEHOLDER_MODEL} if "base" in arm.kind.model_fields else {})}
        try:
            parse_params(arm.kind, raw)
        except UserInputError as error:
            for fault in error.faults:
                add(fault.name, str(fault), "")

    def _check_base(self, arm: PlannedArm, arms: Mapping[str, PlannedArm]) -> None:
        entry = self.entries[arm.grid]
        takes_base = issubclass(arm.kind, TargetParams)
        if not arm.base:
            if takes_base and arm.kind.entry_point != "scratch_cnn":
                self.errors.add(self.entries, arm.grid, "needs base: the arm whose model it builds on.")
            return
        if not takes_base:
            self.errors.add(entry, "base", f"{arm.kind.entry_point} takes no base.")
            return
        base = arms.get(arm.base)
        if base is None:
            is_grid = arm.base in {other.grid for other in arms.values()}
            why = "is a grid of arms: name one of them." if is_grid else "is not an arm of this plan."
            self.errors.add(entry, "base", f"{arm.base} {why}", remedy=suggest(arm.base, tuple(arms)))
            return
        if base.kind.entry_point in ("cache_features", "probe") or base.setting.get("refit") in (False, "false"):
            self.errors.add(entry, "base", f"{arm.base} logs no model.")
        if base.seeds < arm.seeds:
            why = f"{arm.base} has {base.seeds} seeds, {arm.name} {arm.seeds}: seed s builds on base s."
            self.errors.add(entry, "base", why)

    def _check_cycles(self, arms: Mapping[str, PlannedArm]) -> None:
        graph = {arm.name: [arm.base] for arm in arms.values() if arm.base in arms}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]
            place = self.errors.mapping(self.entries, arms[cycle[0]].grid)
            self.errors.add(place, "base", f"cycle of bases: {' -> '.join(cycle)}.")


def _bases_first(arms: Mapping[str, PlannedArm]) -> dict[str, PlannedArm]:
    """Return the arms in file order, except that a base comes before the arms that build on it."""
    ordered: dict[str, PlannedArm] = {}

    def place(arm: PlannedArm) -> None:
        if arm.base:
            place(arms[arm.base])
        ordered.setdefault(arm.name, arm)

    for arm in arms.values():
        place(arm)
    return ordered
