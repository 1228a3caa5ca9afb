"""`report`: a study's report written again, or arms side by side from finished runs.

python -m pipeline report                  the newest study, or else the newest finetune_cnn, its base, its scratch_cnn
python -m pipeline report --runs ID        the study of that run
python -m pipeline report --runs ID,ID,ID  any finished runs that trained
"""  # fmt: skip

from __future__ import annotations

import json
from pathlib import Path

from pipeline.console import echo
from pipeline.errors import Fault, UserInputError
from pipeline.params import ReportParams
from pipeline.plan.outcome import PlanRecord, record_from_json
from pipeline.report.comparison import comparison_figure, comparison_markdown, comparison_table
from pipeline.report.loader import write_study
from pipeline.report.run_plots import save_figure
from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.queries import Arm, Store, newest_arm, newest_plan_run, read_arm, read_plan_record
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import Client, open_store


def report(params: ReportParams) -> StageResult:
    """Write one table (Markdown and CSV) and one figure that compare finished runs, and log them.

    Args:
        params: Which runs, and where the files go.

    Returns:
        The run's id, no model, no metrics.

    Raises:
        UserInputError: A run cannot be found or is not finished; no run was made.
    """
    client = open_store()
    if (study := chosen_study(client, params)) is not None:
        return write_again(client, params, *study)
    arms = chosen_arms(client, params)
    if params.dry_run:
        echo(json.dumps(params.logged(), indent=2))
        echo("dry run: " + ", ".join(f"{arm.name} ({arm.run_id})" for arm in arms) + " would be compared")
        return StageResult("", "", {})
    folder = Path(params.folder)
    note = "Finished runs side by side: " + ", ".join(f"{arm.name} ({arm.run_id})" for arm in arms)
    with stage_run(params, name="report", note=note, tags={}) as run:
        folder.mkdir(parents=True, exist_ok=True)
        text = comparison_markdown(arms)
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        comparison_table(arms).to_csv(folder / "comparison.csv")
        save_figure(comparison_figure(arms), folder / "comparison.png")
        for name in ("comparison.md", "comparison.csv", "comparison.png"):
            run.log_file(folder / name, "report")
        echo(text)
        echo(f"written to {folder}/comparison.md, .csv and .png, and logged to run {run.run_id}")
        return StageResult(run.run_id, "", {})


def chosen_study(client: Client, params: ReportParams) -> tuple[str, PlanRecord] | None:
    """Return the study that is named, or the newest one, with its run; None where single runs are to be compared.

    Raises:
        UserInputError: The run is a study's and its record cannot be read.
    """
    run_id = newest_plan_run(client) if params.runs == "auto" else params.runs
    text = read_plan_record(client, run_id) if run_id and "," not in run_id else None
    if text is None:
        return None
    try:
        return run_id, record_from_json(text)
    except ValueError as error:
        raise UserInputError(
            Fault("runs", run_id, f"has a damaged {names.PLAN_RECORD}: {error}.", "Run main again.")
        ) from None


def write_again(client: Client, params: ReportParams, run_id: str, record: PlanRecord) -> StageResult:
    """Write a study's report from its runs as they are now, and log it."""
    if params.dry_run:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: the report of study {record.name} (run {run_id}) would be written again")
        return StageResult("", "", {})
    folder = Path(params.folder) / record.name
    note = f"The report of study {record.name}, run {run_id}, written again."
    with stage_run(params, name=f"report {record.name}", note=note, tags={}) as run:
        for file in write_study(Store(client, run.experiment_id), record, run_id, folder):
            run.log_file(file, names.REPORT)
        echo(f"written to {folder / 'study.html'} (and .md, .csv), and logged to run {run.run_id}")
        return StageResult(run.run_id, "", {})


def chosen_arms(client: Client, params: ReportParams) -> list[Arm]:
    """Return the named runs, or the newest fine-tuned CNN with its base before and its scratch arm after it.

    Raises:
        UserInputError: There is nothing to compare.
    """
    if params.runs != "auto":
        return [read_arm(client, run_id) for run_id in params.runs.split(",")]
    tuned = newest_arm(client, "finetune_cnn")
    scratch = newest_arm(client, "scratch_cnn", like=tuned) if tuned else None
    if tuned is None or scratch is None:
        raise UserInputError(
            Fault(
                "runs",
                "auto",
                "there are no finished finetune_cnn and scratch_cnn runs that match.",
                "Run both first, or name runs.",
            )
        )
    base = tuned.tags.get(names.BASE_RUN_ID)  # there is none where nothing was copied
    return [*([read_arm(client, base)] if base else []), tuned, scratch]
