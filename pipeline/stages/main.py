"""`main`: run a whole plan as nested runs of one plan run, then write its report.

    python -m pipeline main --profile quick        both reference studies
    python -m pipeline main --plan surface         which layers to reuse, with how many labels, at what cost

Completed steps are cached. Run the same command again to resume an interrupted plan.
"""  # fmt: skip

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.console import echo
from pipeline.errors import PlanIncompleteError
from pipeline.execution.local import worker_count
from pipeline.execution.runner import Execution, print_plan
from pipeline.launching import command_to_run
from pipeline.networks.origins.load import named_code
from pipeline.params import MainParams
from pipeline.params.data import PREPROCESSING_FIELDS
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import is_built_in, load_plan
from pipeline.plan.outcome import Outcome, PlanRecord, record_from_json, record_of
from pipeline.plan.records import Plan
from pipeline.report.loader import load_plan_run, print_recommendation, write_plan_report
from pipeline.report.records import PlanRunFacts
from pipeline.stages.plan_base import check_cuts, require_base, use_base
from pipeline.stages.plan_cost import plan_cost
from pipeline.stages.plan_data import fit_plan
from pipeline.stages.plan_executor import executor_factory
from pipeline.stages.plan_features import with_feature_pass
from pipeline.stages.rounds import Budget, Rounds, verdict_costs
from pipeline.tracking import names
from pipeline.tracking.base_model import Base, load_base
from pipeline.tracking.claims import claims_url, open_claims
from pipeline.tracking.database import sqlite_path
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.queries import Store, newest_plan_run, read_plan_record
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.result_cache import find_plan_run
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import Client, active_experiment_id, open_store

logger = logging.getLogger(__name__)

MAX_LISTED_STEPS = 3  # that failed for the same reason


def main(params: MainParams) -> StageResult:
    """Run a plan and write its report.

    Returns:
        The plan run's id, and the number of steps that ran, were cached and failed.

    Raises:
        UserInputError: The plan is invalid; nothing was run.
        PlanIncompleteError: Some steps failed; the report lists them.
        ClusterLostError: The scheduler of the cluster is gone; completed steps stay cached.
        Interrupted: Ctrl-C or SIGTERM; completed steps stay cached.
    """
    began = time.perf_counter()
    client = open_store()
    plan, base = prepare_plan(params, client)
    if base is not None:
        echo(plan_cost(plan, base).text(worker_count(params.workers)))
    if params.dry_run:
        print_costs(client, plan, params)
        return print_plan(plan)
    make_executor = executor_factory(params, plan)
    close_orphaned_runs(client)
    open_claims()
    warn_unshared_claims(client)
    folder = Path(params.folder) / plan.name
    with ExitStack() as stack:
        open_run = functools.cache(lambda: stack.enter_context(plan_run(params, plan)))  # a cached plan needs no run
        if os.environ.get("MLFLOW_RUN_ID"):
            open_run()  # `mlflow run` created this run for the plan, not for its first step
        execution = Execution(
            lambda: open_run().run_id,
            make_executor,
            rerun=params.rerun,
            explain=params.explain,
        )
        rounds = Rounds(plan, execution, functools.partial(read_facts, client, plan))
        outcomes = rounds.run_all(sequential_budget(params))
        plan = replace(plan, seeds=1 + max(outcome.seed for outcome in outcomes))
        record = record_of(plan, outcomes, total_seconds=time.perf_counter() - began, command=repeat_command(params))
        if not open_run.cache_info().currsize and (cached := find_cached_plan(client, record)) is not None:
            return reuse_plan_run(client, *cached, folder=folder)
        return finish_plan(open_run(), record, folder)


def prepare_plan(params: MainParams, client: Client) -> tuple[Plan, Base | None]:
    """Return the plan, fitted to its data and to the existing base that it is to build on, and that base.

    Raises:
        UserInputError: The plan is invalid, or data or base do not fit it.
    """
    plan, built_in = load_plan(params.plan, plan_overrides(params)), is_built_in(params.plan)
    if params.base == "auto":
        require_base(plan)
        return fit_plan(plan, built_in=built_in, class_split=params.class_split), None
    base = load_base(client, params.base, named_code(params.model))
    plan = use_base(plan, base, model=params.model, built_in=built_in)
    plan = fit_plan(plan, built_in=built_in, base=base)
    check_cuts(plan, base)
    return with_feature_pass(plan, base), base


def warn_unshared_claims(client: Client) -> None:
    """Log that commands on other machines would run the same steps again, if they can see this tracking store."""
    if sqlite_path(client.tracking_uri) is None and sqlite_path(claims_url()) is not None:
        logger.info(
            "steps are claimed on this machine only: commands on other machines may run them too. "
            "To share the work, set PIPELINE_STORAGE to a PostgreSQL database (docs/scaling.md)"
        )


def sequential_budget(params: MainParams) -> Budget | None:
    """Return when `seeds=sequential` stops; None for other values."""
    if params.seeds != "sequential":
        return None
    return Budget(params.max_seeds, math.inf if params.max_minutes == "auto" else 60 * params.max_minutes)


def read_facts(client: Client, plan: Plan, outcomes: list[Outcome]) -> PlanRunFacts:
    """Read the runs of a plan's steps so far."""
    record = record_of(plan, outcomes, total_seconds=0.0, command="")
    return load_plan_run(Store(client, active_experiment_id()), record, "")


def print_costs(client: Client, plan: Plan, params: MainParams) -> None:
    """Print the cost of a verdict on each open question of the newest plan run, if that was of the same plan."""
    run_id = newest_plan_run(client)
    try:
        text = read_plan_record(client, run_id) if run_id else None
        record = record_from_json(text) if text is not None else None
    except ValueError as error:
        echo(f"cost of a verdict: unknown, the record of plan run {run_id} cannot be read ({error})")
        return
    if record is None or (record.name, record.profile) != (plan.name, plan.profile):
        return
    pilot = load_plan_run(Store(client, active_experiment_id()), replace(record, questions=plan.questions), run_id)
    for line in verdict_costs(plan, pilot, params.max_seeds):
        echo(f"cost of a verdict, from plan run {run_id}: {line}")


def plan_overrides(params: MainParams) -> PlanOverrides:
    """Collect the command-line overrides that apply to every arm."""
    names = ("dataset", "device", "threads", "export", *PREPROCESSING_FIELDS)
    overrides: dict[str, object] = {name: getattr(params, name) for name in names if getattr(params, name) != "auto"}
    overrides |= {name: True for name in ("skip_unreadable", "verify") if getattr(params, name)}
    return PlanOverrides(
        profile=params.profile,
        seeds=params.seeds if isinstance(params.seeds, int) else None,
        max_seeds=params.max_seeds if params.seeds == "sequential" else None,
        overrides={**overrides, "data_dir": params.data_dir},
        base_classes="" if params.base_classes == "auto" else params.base_classes,
        target_classes="" if params.target_classes == "auto" else params.target_classes,
    )


def plan_run(params: MainParams, plan: Plan) -> AbstractContextManager[StageRun]:
    """Return the context of the plan's run, which is the parent of its steps' runs."""
    note = f"{plan.title}. {plan.description}\n\nIts steps are the child runs; its report is an artifact."
    return stage_run(params, name=f"plan {plan.name}, {plan.profile}", note=note, tags={names.PLAN: plan.name})


def plan_digest(record: PlanRecord) -> str:
    """Return a digest of a plan's text and of the runs of its steps."""
    parts = [f"{outcome.arm} {outcome.seed} {outcome.run_id}" for outcome in record.outcomes]
    parts += [repr(question) for question in record.questions] + [record.title, record.description]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def find_cached_plan(client: Client, record: PlanRecord) -> tuple[str, PlanRecord] | None:
    """Return the newest finished plan run with the same steps, and its record; None if there is none."""
    run_id = find_plan_run(client, plan_digest(record))
    try:
        text = read_plan_record(client, run_id) if run_id else None
        return (run_id, record_from_json(text)) if text is not None else None
    except ValueError:
        return None


def reuse_plan_run(client: Client, run_id: str, record: PlanRecord, *, folder: Path) -> StageResult:
    """Print that the whole plan is cached; write its report if the folder has none, or that of another run."""
    echo(f"nothing to do: all {len(record.outcomes)} steps are cached (plan run {run_id})")
    path = folder / names.PLAN_RECORD
    is_current = path.is_file() and path.read_text("utf-8") == record.to_json()
    if not is_current or not all((folder / name).is_file() for name in ("study.html", names.RECOMMENDATION)):
        write_plan_report(Store(client, active_experiment_id()), record, run_id=run_id, folder=folder)
    echo(f"report: {folder / 'study.html'} (also an artifact of the plan run)")
    print_recommendation(folder)
    return StageResult(run_id, "", {}, reused=True)


def finish_plan(run: StageRun, record: PlanRecord, folder: Path) -> StageResult:
    """Write and log the report, and log how many steps ran, were cached and failed.

    Raises:
        PlanIncompleteError: Some steps failed.
    """
    for file in write_plan_report(Store(run.client, run.experiment_id), record, run_id=run.run_id, folder=folder):
        run.log_file(file, names.REPORT)
    reused = [outcome for outcome in record.outcomes if outcome.reused]
    failed = [outcome for outcome in record.outcomes if outcome.failure]
    digest = "" if failed else plan_digest(record)
    run.set_tags({names.PLAN_DIGEST: digest, "reused_runs": " ".join(outcome.run_id for outcome in reused)})
    completed = len(record.outcomes) - len(reused) - len(failed)
    run.log_final({"study/run": completed, "study/reused": len(reused), "study/failed": len(failed)})
    echo(f"report: {folder / 'study.html'} (and .md, .csv), run {run.run_id}")
    print_recommendation(folder)
    if failed:
        raise PlanIncompleteError(
            f"{len(failed)} of {len(record.outcomes)} steps are missing: {describe_failures(failed)}"
        )
    return StageResult(run.run_id, "", dict(run.final_metrics))


def describe_failures(failed: list[Outcome]) -> str:
    """Return each reason once, with the steps that failed for it."""
    steps: dict[str, list[str]] = {}
    for outcome in failed:
        steps.setdefault(outcome.failure, []).append(f"{outcome.arm} seed {outcome.seed}")
    parts = []
    for reason, names_of_steps in steps.items():
        more = len(names_of_steps) - MAX_LISTED_STEPS
        listed = ", ".join(names_of_steps[:MAX_LISTED_STEPS]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"{listed}: {reason}")
    return "; ".join(parts)


def repeat_command(params: MainParams) -> str:
    """Return the command that repeats a plan run on this machine."""
    defaults = MainParams().logged()
    changed = {name: value for name, value in params.logged().items() if value != defaults[name]}
    return command_to_run("main", changed)
