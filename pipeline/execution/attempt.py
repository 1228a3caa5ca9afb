"""Run one step in this process."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.execution.records import Report, Status, Task
from pipeline.networks.origins.load import named_code
from pipeline.params import ENTRY_POINTS, StageParams, parse_params
from pipeline.tracking.base_model import load_base
from pipeline.tracking.claims import ClaimedElsewhereError, ClaimLostError
from pipeline.tracking.graph_export import add_graph
from pipeline.tracking.plan_context import NotCachedError, PlanContext
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store

Stage = Callable[..., StageResult]
HostFacts = Callable[[list[dict[str, str]]], dict[str, str]]


def load_stage(kind: type[StageParams]) -> Stage:
    """Return the function of an entry point."""
    module: Any = importlib.import_module(f"pipeline.stages.{kind.entry_point}")
    stage: Stage = getattr(module, kind.entry_point)
    return stage


def load_host_facts() -> HostFacts:
    """Return the function that describes this host; see `stages.host_facts`."""
    module: Any = importlib.import_module("pipeline.stages.host_facts")
    host_facts: HostFacts = module.host_facts
    return host_facts


def export_cached(result: StageResult, model: str) -> None:
    """Add the servable graph to the model of a cached result, if it was logged without one.

    `model` is the step's parameter, which may name the user's own code.
    """
    client = open_store()
    add_graph(client, load_base(client, result.model_uri, named_code(model)))


def attempt(task: Task, plan_context: PlanContext) -> Report:
    """Run a step, or find its cached result. Any error of its stage is reported; Ctrl-C is raised."""
    began = time.perf_counter()
    report = Report(task.number, Status.DONE)
    try:
        kind = ENTRY_POINTS[task.entry_point]
        params = parse_params(kind, task.raw_params)
        result = load_stage(kind)(params, plan_context=plan_context)
        if result.reused and getattr(params, "export", "auto") is True:
            export_cached(result, getattr(params, "model", ""))
        report = replace(
            report, run_id=result.run_id, model_uri=result.model_uri, metrics=result.metrics, reused=result.reused
        )
    except NotCachedError:
        report = replace(report, status=Status.NOT_CACHED)
    except (ClaimedElsewhereError, ClaimLostError) as error:
        report = replace(report, status=Status.CLAIMED, failure=str(error), claim_key=error.key)
    except Exception as error:  # any error of a stage fails its own arm; the plan continues
        report = replace(report, status=Status.FAILED, failure=f"{type(error).__name__}: {error}")
    finally:
        if plan_context.claim is not None and not plan_context.claim.run_id:  # else released when all is uploaded
            plan_context.claim.release()
    return replace(report, why=plan_context.why, seconds=time.perf_counter() - began)
