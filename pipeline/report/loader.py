"""From a study's record and the tracking store to its report."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pipeline.plan.outcome import Outcome, PlanRecord
from pipeline.report.records import LedgerLine, Member, PlanRunFacts, ReportedArm
from pipeline.report.writer import write_report
from pipeline.tracking import names
from pipeline.tracking.queries import Arm, Store, read_step


def write_study(store: Store, record: PlanRecord, run_id: str, folder: Path) -> list[Path]:
    """Write a study's record and its report into a folder, made where it is missing, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / names.PLAN_RECORD
    path.write_text(record.to_json(), encoding="utf-8")
    return [path, *write_report(load_plan_run(store, record, run_id), folder)]


def load_plan_run(store: Store, record: PlanRecord, run_id: str) -> PlanRunFacts:
    """Return everything that a report says, read back from the runs.

    Args:
        store: Where the runs are.
        record: What was carried out.
        run_id: The study's own run.
    """
    runs = {outcome.run_id: read_step(store.client, outcome.run_id) for outcome in record.outcomes if outcome.run_id}
    by_arm: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in record.outcomes:
        by_arm[outcome.arm].append(outcome)
    arms = {
        arm.name: ReportedArm(
            name=arm.name,
            label=arm.label,
            entry_point=arm.entry_point,
            members=tuple(
                Member(outcome.seed, runs[outcome.run_id], outcome.reused)
                for outcome in by_arm[arm.name]
                if outcome.run_id
            ),
            failures=tuple((outcome.seed, outcome.failure) for outcome in by_arm[arm.name] if outcome.failure),
        )
        for arm in record.arms
    }
    return PlanRunFacts(
        name=record.name,
        title=record.title,
        description=record.description,
        profile=record.profile,
        seeds=record.seeds,
        arms=arms,
        questions=record.questions,
        ledger=ledger(record, by_arm, runs),
        total_seconds=record.total_seconds,
        run_id=run_id,
        server=store.server,
        experiment_id=store.experiment_id,
        command=record.command,
    )


def ledger(record: PlanRecord, by_arm: dict[str, list[Outcome]], runs: dict[str, Arm]) -> tuple[LedgerLine, ...]:
    """Return where the time went, arm by arm, and what recognised runs had taken."""
    lines = []
    for arm in record.arms:
        outcomes = by_arm[arm.name]
        saved = sum(
            runs[outcome.run_id].metrics.get(names.TOTAL_SECONDS, 0.0) for outcome in outcomes if outcome.reused
        )
        lines.append(LedgerLine(arm.label, len(outcomes), sum(outcome.seconds for outcome in outcomes), saved))
    rest = record.total_seconds - sum(line.seconds for line in lines)
    return (*lines, LedgerLine("start and reading the plan", 0, rest, 0.0))
