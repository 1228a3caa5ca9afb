"""Runs the steps of a plan in order. A failed step fails only the steps that build on it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.console import PlanDisplay, StepLabel, echo
from pipeline.params import StageParams, parse_params
from pipeline.plan.outcome import Outcome
from pipeline.plan.records import Plan, Step, walk
from pipeline.tracking import names
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.stage_run import StageResult

Stage = Callable[..., StageResult]
Results = dict[tuple[str, int], StageResult]  # by arm and seed


def run_plan(
    steps: list[Step], plan_context: PlanContext, *, results: Results | None = None, explain: bool = False
) -> list[Outcome]:
    """Run the steps that are not cached, and return one outcome per step.

    Args:
        steps: Each after its base.
        plan_context: The plan run that they belong to.
        results: Results of earlier steps, on which these may build; theirs are added.
        explain: Show for each step why it was or was not cached.
    """
    results = {} if results is None else results
    outcomes: list[Outcome] = []
    with PlanDisplay([StepLabel(step.arm.label, step.seed, step.arm.kind.entry_point) for step in steps]) as display:
        for number, step in enumerate(steps):
            with display.running(number):
                outcome, result = attempt_step(step, results, plan_context)
            if result is not None:
                results[step.place] = result
            outcomes.append(outcome)
            reason = f" ({plan_context.why})" if explain and result is not None else ""
            display.end(number, describe(outcome, result) + reason, reused=outcome.reused)
    return outcomes


def attempt_step(step: Step, results: Results, plan_context: PlanContext) -> tuple[Outcome, StageResult | None]:
    """Run one step; return its outcome, and its result unless it failed."""
    began = time.perf_counter()
    outcome = Outcome(step.arm.name, step.seed, "", False, 0.0)
    result: StageResult | None = None
    if step.base is not None and step.base not in results:
        return replace(outcome, failure=f"its base {step.base[0]} seed {step.base[1]} is missing"), None
    try:
        base_uri = results[step.base].model_uri if step.base else ""
        params = parse_params(step.arm.kind, step.raw_params(base_uri))
        result = load_stage(step.arm.kind)(params, plan_context=plan_context)
        outcome = replace(outcome, run_id=result.run_id, reused=result.reused)
    except Exception as error:  # any error of a stage fails its own arm; the plan continues
        outcome = replace(outcome, failure=f"{type(error).__name__}: {error}")
    return replace(outcome, seconds=time.perf_counter() - began), result


def load_stage(kind: type[StageParams]) -> Stage:
    """Return the function of an entry point."""
    module: Any = importlib.import_module(f"pipeline.stages.{kind.entry_point}")
    stage: Stage = getattr(module, kind.entry_point)
    return stage


def describe(outcome: Outcome, result: StageResult | None) -> str:
    """Return a step's outcome in a few words."""
    if result is None:
        return f"FAILED: {outcome.failure}"
    accuracy = result.metrics.get(names.TEST_ACCURACY)
    status = "cached" if outcome.reused else f"{outcome.seconds:.1f} s"
    return status if accuracy is None else f"{status}, test accuracy {100 * accuracy:.2f} %"


def print_plan(plan: Plan) -> StageResult:
    """Print the steps of a plan (the dry run of `main`)."""
    steps = walk(plan)
    echo(f"dry run of {plan.name}, profile {plan.profile}: {len(steps)} steps, {len(plan.arms)} arms")
    for step in steps:
        base = f" on {step.base[0]} seed {step.base[1]}" if step.base else ""
        params = " ".join(f"{name}={value}" for name, value in step.arm.setting.items() if name != "data_dir")
        echo(f"{step.arm.name} seed {step.seed}: {step.arm.kind.entry_point}{base} {params}")
    return StageResult("", "", {})
