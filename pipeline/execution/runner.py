"""Walking a plan: each step through its stage, failures kept, everything shown on the way."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.console import PlanDisplay, StepLabel, capture_output, echo
from pipeline.params import StageParams, parse_params
from pipeline.plan.outcome import Outcome
from pipeline.plan.records import Plan, Step, walk
from pipeline.tracking import names
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.stage_run import StageResult

Stage = Callable[..., StageResult]


def run_plan(steps: list[Step], plan_context: PlanContext, *, explain: bool = False) -> list[Outcome]:
    """Run every step, or recognise it as finished; one that fails takes down only what builds on it.

    Args:
        steps: Bases before what builds on them.
        within: The study that they are steps of.
        explain: Show for each step why it was recognised or not.

    Returns:
        One outcome a step, in the order given.
    """
    done: dict[tuple[str, int], StageResult] = {}
    outcomes: list[Outcome] = []
    with PlanDisplay([StepLabel(step.arm.label, step.seed, step.arm.kind.entry_point) for step in steps]) as display:
        for number, step in enumerate(steps):
            display.begin(number)
            outcome, result = attempt_step(step, done, plan_context, display)
            if result is not None:
                done[step.place] = result
            outcomes.append(outcome)
            why = f" ({plan_context.why})" if explain and result is not None else ""
            display.end(number, describe(outcome, result) + why, reused=outcome.reused)
    return outcomes


def attempt_step(
    step: Step, done: dict[tuple[str, int], StageResult], plan_context: PlanContext, display: PlanDisplay
) -> tuple[Outcome, StageResult | None]:
    """Return what became of a step, and its result if it has one."""
    began = time.perf_counter()
    outcome = Outcome(step.arm.name, step.seed, "", False, 0.0)
    result: StageResult | None = None
    if step.base is not None and step.base not in done:
        return replace(outcome, failure=f"its base {step.base[0]} seed {step.base[1]} is missing"), None
    try:
        with capture_output(display):
            result = run_step(step, done[step.base].model_uri if step.base else "", plan_context)
        outcome = replace(outcome, run_id=result.run_id, reused=result.reused)
    except Exception as error:  # whatever a stage raises is its arm's failure, not the study's
        outcome = replace(outcome, failure=f"{type(error).__name__}: {error}")
    return replace(outcome, seconds=time.perf_counter() - began), result


def run_step(step: Step, base_uri: str, plan_context: PlanContext) -> StageResult:
    """Run one step's stage, or take its finished result."""
    params = parse_params(step.arm.kind, step.raw_params(base_uri))
    return load_stage(step.arm.kind)(params, plan_context=plan_context)


def load_stage(kind: type[StageParams]) -> Stage:
    """Return the function of an entry point."""
    module: Any = importlib.import_module(f"pipeline.stages.{kind.entry_point}")
    stage: Stage = getattr(module, kind.entry_point)
    return stage


def describe(outcome: Outcome, result: StageResult | None) -> str:
    """Return what a step came to in a few words."""
    if result is None:
        return f"FAILED: {outcome.failure}"
    if outcome.reused:
        return f"finished before{_accuracy(result)}"
    return f"{outcome.seconds:.1f} s{_accuracy(result)}"


def _accuracy(result: StageResult) -> str:
    accuracy = result.metrics.get(names.TEST_ACCURACY)
    return f", test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""


def explain_steps(plan: Plan) -> StageResult:
    """Print the steps that a plan asks for; nothing is run."""
    steps = walk(plan)
    echo(f"dry run of {plan.name}, profile {plan.profile}: {len(steps)} steps, {len(plan.arms)} arms")
    for step in steps:
        base = f" on {step.base[0]} seed {step.base[1]}" if step.base else ""
        setting = " ".join(f"{name}={value}" for name, value in step.arm.setting.items() if name != "data_dir")
        echo(f"{step.arm.name} seed {step.seed}: {step.arm.kind.entry_point}{base} {setting}")
    return StageResult("", "", {})
