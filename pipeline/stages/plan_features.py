"""Derives the feature pass of a plan on an existing base: one step that serves all arms with frozen blocks.

The step runs the union of the images of all label counts and seeds, with validation and test images, through the base
once, and keeps pooled features of all cuts that the arms need.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pipeline.networks.graph.record import GraphArchitecture
from pipeline.params import CacheFeaturesParams, TransferParams
from pipeline.plan.records import Plan, PlannedArm
from pipeline.stages.plan_arms import arm_params
from pipeline.stages.transfer import layers_to_reuse
from pipeline.statistics.surfaces import FRESH_SEEDS
from pipeline.tracking.base_model import Base

NOT_SHARED = ("per_class", "cuts", "depth", "draws", "seed")  # the pass covers the largest of these, or all of them


def with_feature_pass(plan: Plan, base: Base) -> Plan:
    """Return a plan with one feature pass per dataset and kind of sample, and arms that take their features from it.

    The built-in networks are cheap: their arms are unchanged, and so are arms that name their features.
    """
    if not isinstance(base.network.architecture, GraphArchitecture):
        return plan
    frozen = [arm for arm in plan.arms.values() if is_frozen(arm, base)]
    groups: dict[tuple[tuple[str, str], ...], list[PlannedArm]] = defaultdict(list)
    for arm in frozen:
        shared = {name: value for name, value in arm.setting.items() if name in CacheFeaturesParams.model_fields}
        key = tuple(sorted((name, str(value)) for name, value in shared.items() if name not in NOT_SHARED))
        groups[key].append(arm)
    free = (name for number in itertools.count(1) if (name := f"features {number}") not in plan.arms)
    passes = [feature_pass(next(free), arms, plan, base=base) for arms in groups.values()]
    users = {arm.name: replace(arm, setting={**arm.setting, "features": "auto"}) for arm in frozen}
    return replace(plan, arms={**{one.name: one for one in passes}, **plan.arms, **users})


def is_frozen(arm: PlannedArm, base: Base) -> bool:
    """Return whether an arm solves a head on frozen blocks of the existing base, and does not name its features."""
    params = arm_params(arm)
    if not isinstance(params, TransferParams) or arm.setting.get("base") != base.model_uri:
        return False
    return params.head_solver == "convex" and "features" not in arm.setting


def feature_pass(name: str, arms: Sequence[PlannedArm], plan: Plan, *, base: Base) -> PlannedArm:
    """Return the arm that computes the features of arms with the same images but for seed and number of labels."""
    blocks = base.network.architecture.block_names
    cuts, counts = set(), []
    for arm in arms:
        params = arm_params(arm)
        assert isinstance(params, TransferParams), "only such an arm has a frozen prefix"
        cuts.add(layers_to_reuse(params, blocks).copied)
        counts.append(params.per_class)
    numbers = [count for count in counts if isinstance(count, int)]
    per_class = "all" if "all" in counts else max(numbers, default="auto")
    setting = {key: value for key, value in arms[0].setting.items() if key in CacheFeaturesParams.model_fields}
    setting |= {"cuts": ",".join(map(str, sorted(cuts))), "per_class": per_class, "draws": seeds_of(arms, plan)}
    return PlannedArm(
        name=name, label="features at all cuts", kind=CacheFeaturesParams, setting=setting, base="", seeds=1, grid=name,
        exclusive=False,
    )  # fmt: skip


def seeds_of(arms: Sequence[PlannedArm], plan: Plan) -> int:
    """Return the number of seeds of some arms, with those that confirm the cells of a surface."""
    confirmed = {arm for question in plan.questions if question.kind == "surface" for arm in question.arms}
    count = max(arm.seeds for arm in arms)
    return max(count, FRESH_SEEDS[-1] + 1) if confirmed & {arm.name for arm in arms} else count
