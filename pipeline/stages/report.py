"""`report`: write the report of a plan run again, or compare finished runs.

python -m pipeline report                  the newest plan run; without one, the newest finetune_cnn, its base and
                                           its scratch_cnn
python -m pipeline report --runs ID        the plan run with that id
python -m pipeline report --runs ID,ID,ID  any finished runs that trained, each as an arm; the last is the reference
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.console import echo
from pipeline.errors import Fault, UserInputError
from pipeline.params import ReportParams
from pipeline.plan.outcome import PlanRecord, record_from_json
from pipeline.report.ad_hoc_plan import ad_hoc_record
from pipeline.report.loader import print_recommendation, write_plan_report
from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.queries import (
    FinishedRun,
    Store,
    newest_plan_run,
    newest_run,
    read_plan_record,
    read_trained_run,
)
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import Client, open_store


def report(params: ReportParams) -> StageResult:
    """Write a report to `folder`, log it to a new run, and return that run without a model or metrics.

    Raises:
        UserInputError: A run does not exist or is not finished; no run was created.
    """
    client = open_store()
    run_id, record = find_plan_run(client, params.runs) or ("", ad_hoc_record(chosen_runs(client, params.runs)))
    folder = Path(params.folder) / record.name
    runs = ", ".join(outcome.run_id for outcome in record.outcomes if outcome.run_id)
    if params.dry_run:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: would write {folder / 'study.html'} from {f'plan run {run_id}' if run_id else f'runs {runs}'}")
        return StageResult("", "", {})
    note = f"Report of plan run {run_id} ({record.name})." if run_id else f"Comparison of runs {runs}."
    with stage_run(params, name=f"report {record.name}", note=note, tags={}) as run:
        for file in write_plan_report(Store(client, run.experiment_id), record, run_id=run_id, folder=folder):
            run.log_file(file, names.REPORT)
        echo(f"report: {folder / 'study.html'} (and .md, .csv), logged to run {run.run_id}")
        print_recommendation(folder)
        return StageResult(run.run_id, "", {})


def find_plan_run(client: Client, runs: str) -> tuple[str, PlanRecord] | None:
    """Return the requested or newest plan run with its record; None if single runs are to be compared.

    Raises:
        UserInputError: The plan run's record cannot be read.
    """
    run_id = newest_plan_run(client) if runs == "auto" else runs
    text = read_plan_record(client, run_id) if run_id and "," not in run_id else None
    if text is None:
        return None
    try:
        return run_id, record_from_json(text)
    except ValueError as error:
        raise UserInputError(
            Fault("runs", run_id, f"has a damaged {names.PLAN_RECORD}: {error}.", "Run the plan again.")
        ) from None


def chosen_runs(client: Client, runs: str) -> list[FinishedRun]:
    """Return the requested runs, or the newest finetune_cnn run between its base and the matching scratch_cnn run.

    Raises:
        UserInputError: A requested run cannot be used, or there is nothing to compare.
    """
    if runs != "auto":
        return [read_trained_run(client, run_id) for run_id in runs.split(",")]
    tuned = newest_run(client, "finetune_cnn")
    scratch = newest_run(client, "scratch_cnn", like=tuned) if tuned else None
    if tuned is None or scratch is None:
        missing = "no finished finetune_cnn run has a matching scratch_cnn run."
        raise UserInputError(Fault("runs", "auto", missing, "Run both first, or pass run ids."))
    base = tuned.tags.get(names.BASE_RUN_ID)
    return [*([read_trained_run(client, base)] if base else []), tuned, scratch]
