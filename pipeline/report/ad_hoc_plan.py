"""A plan run record for finished runs outside of any plan, so that they get the same report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.plan.outcome import ArmName, Outcome, PlanRecord
from pipeline.plan.records import Question
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun

NAME = "comparison"
HEADING = "Runs side by side"
TASK_TAGS = (names.DATASET, names.CLASSES)


def ad_hoc_record(runs: Sequence[FinishedRun]) -> PlanRecord:
    """Return a record in which each run is an arm, and the last one is the reference.

    Args:
        runs: At least one finished run of a stage that trains; duplicates are dropped.
    """
    runs = list({run.run_id: run for run in runs}.values())
    counts = Counter(run.name for run in runs)
    labels = {run.run_id: run.name if counts[run.name] == 1 else f"{run.name} ({run.run_id[:8]})" for run in runs}
    return PlanRecord(
        name=NAME,
        title="Comparison of finished runs",
        description="Each arm is one run: " + ", ".join(f"{labels[run.run_id]} ({run.run_id})" for run in runs) + ".",
        profile="",
        seeds=len({run.params.get("seed") for run in runs}),
        arms=tuple(ArmName(run.run_id, labels[run.run_id], run.stage) for run in runs),
        questions=_questions(runs, labels[runs[-1].run_id]),
        outcomes=tuple(
            Outcome(run.run_id, int(run.params.get("seed", 0)), run.run_id, reused=False, seconds=0.0) for run in runs
        ),
        total_seconds=0.0,
        command="python -m pipeline report --runs " + ",".join(run.run_id for run in runs),
    )


def _questions(runs: Sequence[FinishedRun], reference_label: str) -> tuple[Question, ...]:
    """Return questions on accuracy and training time, and a comparison with runs on the same data and classes."""
    *others, reference = runs
    questions = [("Test accuracy and learning curves", "score", runs)]
    same_task = [run for run in others if all(run.tags.get(tag) == reference.tags.get(tag) for tag in TASK_TAGS)]
    if same_task:
        questions.append((f"Test accuracy vs. {reference_label}", "compare", same_task))
    if others:
        questions.append((f"Training time vs. {reference_label}", "time", others))
    return tuple(
        Question(str(number), HEADING, text, kind, tuple(run.run_id for run in arms),
                 "" if kind == "score" else reference.run_id)
        for number, (text, kind, arms) in enumerate(questions, 1)
    )  # fmt: skip
