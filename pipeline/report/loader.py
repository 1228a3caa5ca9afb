"""Reads the runs of a plan run from the tracking store and writes its report.

Start here: `write_plan_report` writes the plan run's record, then `write_report` answers every question and writes
HTML, Markdown, CSV and charts. Only this module reads the store.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.console import echo
from pipeline.plan.outcome import Outcome, PlanRecord
from pipeline.report.claims import claim_cards
from pipeline.report.questions.dispatch import answer
from pipeline.report.recommendation import NO_RECOMMENDATION, recommend
from pipeline.report.records import Links, Member, PlanRunFacts, ReportedArm
from pipeline.report.renderer import render, render_claim
from pipeline.tracking import names
from pipeline.tracking.queries import Store, read_step, read_test_predictions


def write_plan_report(store: Store, record: PlanRecord, *, run_id: str, folder: Path) -> list[Path]:
    """Write the record and the report of a plan run to a folder and return the files; `run_id` may be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / names.PLAN_RECORD
    path.write_text(record.to_json(), encoding="utf-8")
    return [path, *write_report(load_plan_run(store, record, run_id), folder)]


def load_plan_run(store: Store, record: PlanRecord, run_id: str) -> PlanRunFacts:
    """Read the runs of a plan run and return everything that its report is made from."""
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in record.outcomes:
        outcomes[outcome.arm].append(outcome)
    arms = {
        arm.name: ReportedArm(
            name=arm.name,
            label=arm.label,
            entry_point=arm.entry_point,
            members=tuple(load_member(store, outcome) for outcome in outcomes[arm.name] if outcome.run_id),
            failures=tuple((outcome.seed, outcome.failure) for outcome in outcomes[arm.name] if outcome.failure),
            seconds=sum(outcome.seconds for outcome in outcomes[arm.name]),
        )
        for arm in record.arms
    }
    return PlanRunFacts(record, arms, Links(store.server, store.experiment_id), run_id)


def load_member(store: Store, outcome: Outcome) -> Member:
    """Return the run of a step; its predictions are read when a comparison needs them."""
    run = read_step(store.client, outcome.run_id)
    return Member(outcome.seed, run, outcome.reused, partial(read_test_predictions, store.client, run.run_id))


def write_report(facts: PlanRunFacts, folder: Path) -> list[Path]:
    """Answer all questions, write the report to a folder and return the files: pages, CSV, then the charts.

    Raises:
        ValueError: A question has an unknown kind.
    """
    answers = [answer(facts, question) for question in facts.questions]
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    figures = folder / names.FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    texts = {name: render(name, facts, answers, date=date) for name in ("study.html", "study.md", "study-short.html")}
    lines = [line for one in recommend(facts) for line in one.lines]
    texts[names.RECOMMENDATION] = "\n".join(lines or [NO_RECOMMENDATION]) + "\n"
    for card in claim_cards(facts, answers):
        texts[f"claim-{card.number}.html"] = render_claim(card, facts, date=date)
    pages = [folder / name for name in texts]
    for page, text in zip(pages, texts.values(), strict=True):
        page.write_text(text, encoding="utf-8")
    _write_runs(facts, folder / "study.csv")
    charts = {figures / f"{chart.name}.png": chart.png for one in answers for chart in one.charts}
    for path, png in charts.items():
        path.write_bytes(png)
    return [*pages, folder / "study.csv", *charts]


def print_recommendation(folder: Path) -> None:
    """Print which arm of a written report to use, and how."""
    for line in (folder / names.RECOMMENDATION).read_text("utf-8").splitlines():
        echo(line)


def _write_runs(facts: PlanRunFacts, path: Path) -> None:
    """Write one CSV row per run with all its final metrics."""
    metrics = sorted({name for _, member in facts.runs for name in member.run.metrics})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "label", "stage", "seed", "run_id", "reused", "host", *metrics])
        for arm, member in facts.runs:
            origin = [arm.name, arm.label, arm.entry_point, member.seed, member.run.run_id, member.reused]
            writer.writerow([*origin, member.host, *(member.run.metrics.get(name, "") for name in metrics)])
