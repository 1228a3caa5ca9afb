"""Estimates what a plan on an existing base costs, from the speed of the base on this machine, before anything runs.

The estimate is an upper bound: no fit is stopped early, every fit runs all blocks, and label samples share no image.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pipeline.console import duration_text
from pipeline.data.classes import select_classes
from pipeline.data.records import DatasetSummary
from pipeline.data.splits import LabelSample, validation_counts
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.macs import forward_macs, training_macs
from pipeline.params import CacheFeaturesParams, TransferParams
from pipeline.params.target import TARGET_BUDGETS, LabelParams
from pipeline.params.target_stages import AnyTargetParams, CutParams
from pipeline.plan.records import Plan, PlannedArm
from pipeline.runtime import resolve_runtime
from pipeline.stages.cut_pass import VAL_FRACTION
from pipeline.stages.plan_arms import arm_params
from pipeline.stages.plan_data import describe_arms
from pipeline.stages.transfer import layers_to_reuse
from pipeline.tracking.base_model import Base
from pipeline.training.chunks import chunk_size

STEP_SECONDS = 2.0  # of a step besides the network: loading data, solving a head, logging
MEASURED_SECONDS = 0.5
MEASURED_BATCH = 32  # images


@dataclass(frozen=True)
class Speed:
    """Seconds per MAC of a base on one core: of a forward pass, and of a training step."""

    forward: float
    training: float


@dataclass(frozen=True)
class PlanCost:
    """The estimated cost of a plan.

    Attributes:
        steps: Number of steps.
        seconds: CPU time of all steps.
        longest: That of the longest step, with the name of its arm.
    """

    steps: int
    seconds: float
    longest: tuple[float, str]

    def text(self, workers: int) -> str:
        """Return the estimate as a line."""
        longest, arm = self.longest
        return (
            f"estimated cost: {self.steps} steps, at most {duration_text(self.seconds)} on one core of this machine, "
            f"{duration_text(self.seconds / workers)} with workers={workers}; "
            f"the longest step takes {duration_text(longest)} ({arm})"
        )


def plan_cost(plan: Plan, base: Base) -> PlanCost:
    """Return what the steps of a plan on an existing base cost, if none of them is cached."""
    network = copy.deepcopy(base.network)
    speed = measure_speed(network)
    summaries = describe_arms(plan.arms)
    by_arm = {name: step_seconds(arm, network, summaries[name], speed=speed) for name, arm in plan.arms.items()}
    seconds = sum(by_arm[name] * arm.seeds for name, arm in plan.arms.items())
    return PlanCost(sum(arm.seeds for arm in plan.arms.values()), seconds, max((by_arm[n], n) for n in by_arm))


def measure_speed(network: LayeredNetwork) -> Speed:
    """Measure a network on one core; it is left in training mode, with all blocks trained."""
    with resolve_runtime("cpu", "float32", 1, operations=0).in_effect():
        shape = network.architecture.image_shape
        count = max(2, min(MEASURED_BATCH, chunk_size(network, shape)))
        images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
        labels = torch.zeros(count, dtype=torch.int64)
        network.train_only(range(len(network.blocks)))
        training = seconds_per_call(lambda: cross_entropy(network.train().logits(images), labels).backward())
        with torch.no_grad():
            forward = seconds_per_call(lambda: network.eval().logits(images))
        return Speed(forward / count / sum(forward_macs(network)), training / count / training_macs(network))


def seconds_per_call(call: Callable[[], object]) -> float:
    """Return the CPU time of a call: the mean over some calls after the first."""
    call()
    calls, began, cpu = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < MEASURED_SECONDS or not calls:
        call()
        calls += 1
    return (time.thread_time() - cpu) / calls


def step_seconds(arm: PlannedArm, network: LayeredNetwork, summary: DatasetSummary, *, speed: Speed) -> float:
    """Return the estimated CPU time of one step of an arm, in s."""
    params = arm_params(arm)
    if not isinstance(params, AnyTargetParams):
        return STEP_SECONDS
    classes = select_classes(str(arm.setting["classes"]), summary.class_names, summary.name)
    train, validation = sample_sizes(params, [summary.train_counts[number] for number in classes])
    test = sum(summary.test_counts[number] for number in classes)
    forward = speed.forward * sum(forward_macs(network))
    if isinstance(params, CutParams):
        draws = params.draws if isinstance(params, CacheFeaturesParams) else 1
        images = min(draws * (train + validation), sum(summary.train_counts[number] for number in classes))
        return STEP_SECONDS + forward * (images + test)
    if getattr(params, "head_solver", "sgd") == "convex":
        cached = getattr(params, "features", "none") == "auto"
        return STEP_SECONDS + (0 if cached else forward * (train + validation + test))
    if isinstance(params, TransferParams):
        network.train_only(layers_to_reuse(params, network.architecture.block_names).trained)
    epochs = TARGET_BUDGETS["all" if params.per_class == "all" else "few"]["epochs"]
    epochs = epochs if params.epochs == "auto" else params.epochs
    per_epoch = speed.training * training_macs(network) * train + forward * validation
    return STEP_SECONDS + epochs * per_epoch + forward * test


def sample_sizes(params: LabelParams, available: list[int]) -> tuple[int, int]:
    """Return the number of training and of validation images of a label sample, from the images per class."""
    per_class = params.per_class if params.per_class != "auto" else "all"
    fraction = float(getattr(params, "val_fraction", VAL_FRACTION))
    sample = LabelSample(per_class=per_class, val_per_class=params.val_per_class, val_fraction=fraction, seed=0)
    validation = validation_counts(available, sample, official=False)
    left = [count - held for count, held in zip(available, validation, strict=True)]
    return sum(left if per_class == "all" else [min(count, per_class) for count in left]), sum(validation)
