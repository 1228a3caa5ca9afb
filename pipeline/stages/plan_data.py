"""Fits a plan to its data before anything runs: classes of every arm, numbers of labels, folds and batch sizes.

Read `fit_plan`. The values of a built-in plan are defaults: they are lowered to fit the data. Those of other plans
are rejected if the data are too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pipeline.console import echo
from pipeline.data.classes import (
    Classes,
    default_base_classes,
    default_target_classes,
    draw_classes,
    halve_classes,
    is_digits,
    select_classes,
)
from pipeline.data.records import DatasetSummary
from pipeline.data.splits import LabelSample, validation_counts
from pipeline.errors import Fault, UserInputError
from pipeline.params import DataParams, TargetParams, TrainBaseParams, TuneParams
from pipeline.params.data import format_class_names
from pipeline.params.target import DEFAULT_PER_CLASS, LabelParams
from pipeline.plan.records import Plan, PlannedArm
from pipeline.stages.data_loading import describe_data
from pipeline.stages.plan_arms import Arms, arm_params, given, rename_arms, root_of, with_values
from pipeline.tracking.base_model import Base

Limits = dict[str, int]  # largest values that the data allow, by parameter


LOWERED = ("per_class", "val_per_class", "folds", "batch_size")


def fit_plan(
    plan: Plan, *, built_in: bool, class_split: Literal["fixed", "random"] = "fixed", base: Base | None = None
) -> Plan:
    """Return a plan whose arms name their classes, and whose numbers of labels, folds and batch sizes fit the data.

    Args:
        plan: As read from its file.
        built_in: Whether its numbers are defaults, which are lowered to fit.
        class_split: Whether all seeds have the same classes, or each draws as many at random.
        base: An existing base that all targets build on: they take the classes that it was not trained on.

    Raises:
        UserInputError: The dataset is missing, lacks a class, or has fewer images than an arm needs; each fault once.
    """
    summaries = describe_arms(plan.arms)
    plan = replace(plan, arms=with_classes(plan.arms, summaries, base))
    if class_split == "random":
        plan = replace(plan, arms=with_drawn_classes(plan.arms, summaries))
    faults: dict[str, Fault] = {}
    fitted: dict[str, PlannedArm] = {}
    for arm in plan.arms.values():
        limits = data_limits(arm, summaries[arm.name])
        exceeded = {name: limit for name, limit in limits.items() if given(arm, name) > limit}
        if exceeded and (not built_in or min(exceeded.values()) < 1):
            faults |= {str(fault): fault for fault in faults_of(arm, exceeded, summaries[arm.name])}
        fitted[arm.name] = with_values(arm, exceeded)
    if faults:
        raise UserInputError(*faults.values())
    return rename_arms(plan, fitted, action="Lowered to fit the data", parameters=LOWERED)


def describe_arms(arms: Arms) -> dict[str, DatasetSummary]:
    """Return the dataset of each arm, by name of the arm; each dataset is described once."""
    by_request: dict[tuple[object, ...], DatasetSummary] = {}
    summaries = {}
    for arm in arms.values():
        params = arm_params(arm)
        assert isinstance(params, DataParams)
        key = tuple(getattr(params, name) for name in DataParams.model_fields)
        if key not in by_request:
            by_request[key] = summary = describe_data(params, exactly=True)
            if params.dataset == "auto" and summary.name != "mnist":
                where = f"not in {params.data_dir} and cannot be downloaded"
                echo(f"MNIST is {where}: using {summary.name} instead. Results are not comparable with MNIST.")
        summaries[arm.name] = by_request[key]
    return summaries


def with_classes(arms: Arms, summaries: Mapping[str, DatasetSummary], base: Base | None) -> dict[str, PlannedArm]:
    """Return the arms with classes in their settings, and print those that depend on the dataset.

    Raises:
        UserInputError: A dataset lacks a class, or has too few classes for a base and a target.
    """
    chosen = {
        arm.name: select_classes(str(arm.setting["classes"]), summary.class_names, summary.name)
        for arm in arms.values()
        if (summary := summaries[arm.name]) and arm.setting.get("classes", "auto") != "auto"
    }
    given_classes = dict(chosen)
    for arm in arms.values():  # a base comes before its targets
        if arm.name not in chosen and not issubclass(arm.kind, TargetParams):
            chosen[arm.name] = base_classes(arm, arms, summaries, given_classes=given_classes)
    for arm in arms.values():
        if arm.name not in chosen:
            summary = summaries[arm.name]
            chosen[arm.name] = (
                unseen_classes(base, summary) if base else target_classes(arm, arms, summaries, chosen=chosen)
            )
    texts = {name: class_text(numbers, summaries[name]) for name, numbers in chosen.items()}
    print_classes(arms, summaries, {name: text for name, text in texts.items() if name not in given_classes})
    return {arm.name: replace(arm, setting={**arm.setting, "classes": texts[arm.name]}) for arm in arms.values()}


def with_drawn_classes(arms: Arms, summaries: Mapping[str, DatasetSummary]) -> dict[str, PlannedArm]:
    """Return the arms with as many classes as they have, drawn for each seed from all classes of their dataset."""

    def drawn(arm: PlannedArm) -> PlannedArm:
        summary = summaries[arm.name]
        chosen, count = chosen_classes(arm, summary), len(summary.class_names)
        return replace(arm, classes_of_seed=lambda seed: class_text(draw_classes(chosen, count, seed), summary))

    return {name: drawn(arm) for name, arm in arms.items()}


def chosen_classes(arm: PlannedArm, summary: DatasetSummary) -> Classes:
    """Return the classes that an arm names."""
    return select_classes(str(arm.setting["classes"]), summary.class_names, summary.name)


def class_text(classes: Classes, summary: DatasetSummary) -> str:
    """Return a class list."""
    return format_class_names(tuple(summary.class_names[number] for number in classes), classes)


def base_classes(
    arm: PlannedArm, arms: Arms, summaries: Mapping[str, DatasetSummary], *, given_classes: Mapping[str, Classes]
) -> Classes:
    """Return the default classes of a base: those that its targets do not use."""
    summary, params = summaries[arm.name], arm_params(arm)
    assert isinstance(params, TrainBaseParams)
    targets = [other for other in arms.values() if root_of(other, arms) is arm and summaries[other.name] is summary]
    wanted = {number for target in targets for number in given_classes.get(target.name, ())}
    default = default_base_classes(params.family, summary.class_names)
    if not targets or (is_digits(summary.class_names) and not wanted & set(default)):
        return default
    if wanted:
        return rest_of(wanted, summary, name="target_classes")
    return halve_classes(summary.class_names, summary.name)[0]


def target_classes(
    arm: PlannedArm, arms: Arms, summaries: Mapping[str, DatasetSummary], *, chosen: Mapping[str, Classes]
) -> Classes:
    """Return the default classes of a target: those that its base has not seen, on the same data."""
    summary, root = summaries[arm.name], root_of(arm, arms)
    bases = [other for other in arms.values() if root_of(other, arms) is other and summaries[other.name] is summary]
    if root is None and bases:
        root = bases[0]
    seen = chosen[root.name] if root is not None and summaries[root.name] is summary else ()
    if seen and not is_digits(summary.class_names):
        return rest_of(set(seen), summary, name="base_classes")
    assert issubclass(arm.kind, TargetParams)
    seen_names = [summary.class_names[number] for number in seen]
    return default_target_classes(arm.kind.family, summary.class_names, seen_names)


def unseen_classes(base: Base, summary: DatasetSummary) -> Classes:
    """Return the classes of a dataset that an existing base was not trained on: all of them for other data.

    Raises:
        UserInputError: There are fewer than two.
    """
    seen = base.classes if base.dataset == summary.name else ()
    unseen = tuple(number for number, name in enumerate(summary.class_names) if name not in seen)
    if len(unseen) < 2:
        of = f"the {len(summary.class_names)} classes of {summary.name}"
        what = f"the base was trained on all but {len(unseen)} of {of}."
        raise UserInputError(Fault("target_classes", "auto", what, "Name at least two, or choose other images."))
    return unseen


def rest_of(taken: set[int], summary: DatasetSummary, *, name: str) -> Classes:
    """Return all other classes; raise UserInputError if there are fewer than two."""
    rest = tuple(number for number in range(len(summary.class_names)) if number not in taken)
    if len(rest) < 2:
        text = class_text(tuple(sorted(taken)), summary)
        what = (
            f"leaves {len(rest)} of the {len(summary.class_names)} classes of {summary.name}; at least two are needed."
        )
        raise UserInputError(Fault(name, text, what, "Choose fewer classes."))
    return rest


def print_classes(arms: Arms, summaries: Mapping[str, DatasetSummary], texts: Mapping[str, str]) -> None:
    """Print classes that were not given, once per dataset and role, unless they are digits."""
    lines = dict.fromkeys(
        f"{'target' if issubclass(arms[name].kind, TargetParams) else 'base'} classes of {summaries[name].name}: {text}"
        for name, text in texts.items()
        if not is_digits(summaries[name].class_names)
    )
    for line in lines:
        echo(line)


def data_limits(arm: PlannedArm, summary: DatasetSummary) -> Limits:
    """Return the largest per_class, val_per_class, folds and batch_size that the classes of an arm allow."""
    params = arm_params(arm)
    classes = chosen_classes(arm, summary)
    if arm.classes_of_seed is not None:  # the smallest classes, since any may be drawn
        smallest = sorted(range(len(summary.class_names)), key=summary.train_counts.__getitem__)
        classes = tuple(smallest[: len(classes)])
    images = [summary.train_counts[number] for number in classes]
    official = [summary.validation_counts[number] for number in classes] if summary.validation_counts else []
    if isinstance(params, LabelParams):
        assert isinstance(params, TargetParams)
        return _label_limits(arm, params, images, official=official)
    if not isinstance(params, TrainBaseParams):
        return {}
    left = images if official else [count - max(1, round(params.val_fraction * count)) for count in images]
    limits = {"batch_size": sum(left) if min(left) > 0 else 0}
    return {**limits, "folds": min(images)} if isinstance(params, TuneParams) else limits


def _label_limits(arm: PlannedArm, params: LabelParams, images: list[int], *, official: list[int]) -> Limits:
    """Return the limits of a target stage."""
    assert isinstance(params, TargetParams)
    per_class = params.per_class if params.per_class != "auto" else DEFAULT_PER_CLASS[params.family]
    fraction = float(getattr(params, "val_fraction", 0.1))
    sample = LabelSample(per_class=per_class, val_per_class=params.val_per_class, val_fraction=fraction, seed=0)
    held = validation_counts(official or images, sample, official=bool(official))
    left = images if official else [count - val for count, val in zip(images, held, strict=True)]
    labels = [min(count, per_class) if per_class != "all" else count for count in left]
    most = min(official) if official else min(images) - 1
    return {"val_per_class": most, "per_class": max(0, min(left)), "batch_size": max(0, sum(labels))}


def faults_of(arm: PlannedArm, exceeded: Limits, summary: DatasetSummary) -> list[Fault]:
    """Return a fault for each value of an arm that the data do not allow."""
    classes = arm.setting["classes"]
    return [
        Fault(name, given(arm, name), f"classes {classes} of {summary.name} allow at most {limit}.", "Lower it.")
        for name, limit in exceeded.items()
    ]
