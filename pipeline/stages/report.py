"""`report`: arms side by side, from finished runs.

python -m pipeline report                  the newest finetune_cnn, its base, and its scratch_cnn
python -m pipeline report --runs ID,ID,ID  any finished runs that trained
"""  # fmt: skip

from __future__ import annotations

import json
from pathlib import Path

from pipeline.console import say
from pipeline.errors import Fault, UserInputError
from pipeline.params import ReportParams
from pipeline.report.comparison import comparison_figure, comparison_markdown, comparison_table
from pipeline.report.figures import save_figure
from pipeline.tracking import names
from pipeline.tracking.reading import Arm, newest_arm, read_arm
from pipeline.tracking.run import StageResult, stage_run
from pipeline.tracking.store import Client, open_store


def report(params: ReportParams, *, parent_run_id: str | None = None) -> StageResult:
    """Write one table (Markdown and CSV) and one figure that compare finished runs, and log them.

    Args:
        params: Which runs, and where the files go.
        parent_run_id: Makes the run a nested one of that run.

    Returns:
        The run's id, no model, no metrics.

    Raises:
        UserInputError: A run cannot be found or is not finished; no run was made.
    """
    client = open_store()
    arms = chosen_arms(client, params)
    if params.dry_run:
        say(json.dumps(params.logged(), indent=2))
        say("dry run: " + ", ".join(f"{arm.name} ({arm.run_id})" for arm in arms) + " would be compared")
        return StageResult("", "", {})
    folder = Path(params.folder)
    note = "Finished runs side by side: " + ", ".join(f"{arm.name} ({arm.run_id})" for arm in arms)
    with stage_run(params, name="report", note=note, tags={}, parent_run_id=parent_run_id) as run:
        folder.mkdir(parents=True, exist_ok=True)
        text = comparison_markdown(arms)
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        comparison_table(arms).to_csv(folder / "comparison.csv")
        save_figure(comparison_figure(arms), folder / "comparison.png")
        for name in ("comparison.md", "comparison.csv", "comparison.png"):
            run.log_file(folder / name, "report")
        say(text)
        say(f"written to {folder}/comparison.md, .csv and .png, and logged to run {run.run_id}")
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
