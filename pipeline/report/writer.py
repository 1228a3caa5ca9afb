"""The report of a whole study: one page, its Markdown, its numbers as CSV, its figures as files.

Start here: `write_report` answers every question (`answers.py`), puts the answers on a page (`page.py`) and
writes what belongs to it. It reads `PlanRunFacts` alone, and never the tracking store.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

from pipeline.report.elements import Answer
from pipeline.report.questions.dispatch import answer
from pipeline.report.questions.paired_values import host_of
from pipeline.report.records import PlanRunFacts
from pipeline.report.renderer import render_html, render_markdown

FIGURES = "figures"


def write_report(facts: PlanRunFacts, folder: Path) -> list[Path]:
    """Write a study's report into a folder and return the files: HTML, Markdown, CSV, then the figures.

    Args:
        facts: What was asked and what was found.
        folder: Made where it is missing; files of the same names are replaced.

    Raises:
        ValueError: A question is of no known kind.
    """
    answers = [answer(facts, question) for question in facts.questions]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "study.html": render_html(facts, answers, written),
        "study.md": render_markdown(facts, answers, written),
    }
    paths = []
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        paths.append(folder / name)
    return [*paths, write_runs(facts, folder / "study.csv"), *_write_figures(answers, folder / FIGURES)]


def write_runs(facts: PlanRunFacts, path: Path) -> Path:
    """Write one row a run: its arm, seed, stage, id, host, whether it was reused, and every final metric."""
    runs = [(arm, member) for arm in facts.arms.values() for member in arm.members]
    metrics = sorted({name for _, member in runs for name in member.run.metrics})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "label", "stage", "seed", "run_id", "reused", "host", *metrics])
        for arm, member in runs:
            own = [member.run.metrics.get(name, "") for name in metrics]
            about = [arm.name, arm.label, arm.entry_point, member.seed, member.run.run_id, member.reused]
            writer.writerow([*about, host_of(member), *own])
    return path


def _write_figures(answers: list[Answer], folder: Path) -> list[Path]:
    pictures = [picture for one in answers for picture in one.pictures]
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    return [folder / f"{picture.name}.png" for picture in pictures]
