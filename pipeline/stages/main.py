"""`main`: carry out a whole plan as nested runs of one run, then write its report.

    python -m pipeline main --profile quick        both reference studies; the README says how long it takes
    python -m pipeline main --plan surface         which layers to reuse, at how many labels, at what cost

Finished steps are recognised, so the same command again does nothing, and an interrupted study goes on.
"""  # fmt: skip

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.console import echo
from pipeline.errors import PlanIncompleteError
from pipeline.execution.runner import explain_steps, run_plan
from pipeline.params import MainParams
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import load_plan
from pipeline.plan.outcome import PlanRecord, record_from_json, record_of
from pipeline.plan.records import Plan, walk
from pipeline.report.loader import write_plan_report
from pipeline.report.records import KINDS
from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.queries import Store, read_plan_record
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.result_cache import PlanContext, find_plan_run
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import Client, active_experiment_id, open_store


def main(params: MainParams) -> StageResult:
    """Carry out a plan and write its report.

    Args:
        params: Which plan, which profile, how many seeds.

    Returns:
        The study's run, no model, and how many steps were run, recognised and failed.

    Raises:
        UserInputError: The plan cannot be read or holds faults; nothing was run.
        StudyIncompleteError: Some steps failed; the report says what is missing.
        Interrupted: Ctrl-C or SIGTERM; finished steps are kept and recognised next time.
    """
    began = time.perf_counter()
    plan = load_plan(params.plan, plan_overrides(params))
    client = open_store()
    if params.dry_run:
        return explain_steps(plan)
    close_orphaned_runs(client)
    with opened_late(params, plan) as parent:
        plan_context = PlanContext(parent.run_id, rerun=params.rerun)
        if os.environ.get("MLFLOW_RUN_ID"):
            parent.run_id()  # the run that mlflow made is the study's, not that of its first step
        outcomes = run_plan(walk(plan), plan_context, explain=params.explain)
        record = record_of(plan, outcomes, time.perf_counter() - began, command(params))
        digest, folder = plan_digest(record), Path(params.folder) / plan.name
        if not parent.opened and (known := finished_before(client, digest)) is not None:
            run_id, finished = known
            echo(f"nothing to do: all {len(outcomes)} steps are finished, and run {run_id} is this study's")
            if not is_written(finished, folder):
                write_plan_report(Store(client, active_experiment_id()), finished, run_id=run_id, folder=folder)
            echo(f"report: {folder / 'study.html'}, and that run's artifacts")
            return StageResult(run_id, "", {}, reused=True)
        return conclude(parent.open(), record, digest, folder)


def plan_overrides(params: MainParams) -> PlanOverrides:
    """Return what the parameters ask of a plan."""
    wanted = {"dataset": params.dataset, "device": params.device, "threads": params.threads}
    overrides: dict[str, object] = {name: value for name, value in wanted.items() if value != "auto"}
    return PlanOverrides(
        profile=params.profile,
        seeds=None if params.seeds == "auto" else params.seeds,
        overrides={**overrides, "data_dir": params.data_dir},
        base_classes="" if params.base_classes == "auto" else params.base_classes,
        target_classes="" if params.target_classes == "auto" else params.target_classes,
        kinds=KINDS,
    )


class Parent:
    """The study's run, opened when it is first needed: a study in which nothing is run leaves none behind."""

    def __init__(self, params: MainParams, plan: Plan):
        self._context = stage_run(
            params,
            name=f"study {plan.name} {plan.profile}",
            note=f"{plan.title}. {plan.description}\n\nThe steps are this run's children; the report is its artifact.",
            tags={},
        )
        self._run: StageRun | None = None

    @property
    def opened(self) -> bool:
        """Whether the run is open."""
        return self._run is not None

    def open(self) -> StageRun:
        """Return the run, opened by now."""
        if self._run is None:
            self._run = self._context.__enter__()
        return self._run

    def run_id(self) -> str:
        """Return the run's id, the run opened by now."""
        return self.open().run_id

    def close(self, error: BaseException | None) -> None:
        """End the run, if it was opened, as what happened demands."""
        if self._run is not None:
            self._context.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


@contextmanager
def opened_late(params: MainParams, plan: Plan) -> Iterator[Parent]:
    """Give a study's run that is opened when it is first needed, and ended with the block."""
    parent = Parent(params, plan)
    try:
        yield parent
    except BaseException as error:
        parent.close(error)
        raise
    parent.close(None)


def plan_digest(record: PlanRecord) -> str:
    """Return a digest of the runs that make a study up and of what is asked of them."""
    parts = [f"{outcome.arm} {outcome.seed} {outcome.run_id}" for outcome in record.outcomes]
    parts += [repr(question) for question in record.questions] + [record.title, record.description]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def finished_before(client: Client, digest: str) -> tuple[str, PlanRecord] | None:
    """Return the newest finished run of a study with a digest, and its record; None without a whole record."""
    run_id = find_plan_run(client, digest)
    try:
        text = read_plan_record(client, run_id) if run_id else None
        return (run_id, record_from_json(text)) if text is not None else None
    except ValueError:
        return None


def is_written(record: PlanRecord, folder: Path) -> bool:
    """Whether a folder holds the report of this very study, not that of another profile or number of seeds."""
    path = folder / names.PLAN_RECORD
    return (folder / "study.html").is_file() and path.is_file() and path.read_text("utf-8") == record.to_json()


def conclude(run: StageRun, record: PlanRecord, digest: str, folder: Path) -> StageResult:
    """Write and log the report, and say what was found.

    Raises:
        StudyIncompleteError: Some steps failed.
    """
    for file in write_plan_report(Store(run.client, run.experiment_id), record, run_id=run.run_id, folder=folder):
        run.log_file(file, names.REPORT)
    reused = [outcome for outcome in record.outcomes if outcome.reused]
    failed = [outcome for outcome in record.outcomes if outcome.failure]
    run.set_tags({names.PLAN_DIGEST: "" if failed else digest, "reused_runs": " ".join(o.run_id for o in reused)})
    ran = len(record.outcomes) - len(reused) - len(failed)
    run.log_final({"study/run": ran, "study/reused": len(reused), "study/failed": len(failed)})
    echo(f"report: {folder / 'study.html'} (and .md, .csv), run {run.run_id}")
    if failed:
        listed = "; ".join(f"{outcome.arm} seed {outcome.seed}: {outcome.failure}" for outcome in failed)
        raise PlanIncompleteError(f"{len(failed)} of {len(record.outcomes)} steps are missing: {listed}")
    return StageResult(run.run_id, "", dict(run.final_metrics))


def command(params: MainParams) -> str:
    """Return the command that repeats a study."""
    default = MainParams()
    given = {name: value for name, value in params.logged().items() if value != default.logged()[name]}
    return " ".join(["mlflow run .", *(f"-P {name}={value}" for name, value in given.items())])
