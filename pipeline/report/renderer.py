"""Renders the answers of a plan run as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report.claims import ClaimCard
from pipeline.report.elements import Answer, Chart
from pipeline.report.methods import methods_sections, networks_table
from pipeline.report.questions.context import arm_names, missing_runs
from pipeline.report.recommendation import RULE, recommend
from pipeline.report.records import PlanRunFacts

TEMPLATES = Path(__file__).resolve().parent / "templates"
KEY_CHARTS = 3  # per study, in the short edition
LOW_CHART = 1.9  # inches; lower charts are stacked beside higher ones


def render(page: str, facts: PlanRunFacts, answers: Sequence[Answer], *, date: str) -> str:
    """Return `study.html` or `study-short.html`, which embed everything, or `study.md`, which refers to chart files."""
    chapters: dict[str, list[Answer]] = defaultdict(list)  # by heading
    for answer in answers:
        chapters[answer.question.study].append(answer)
    arms = dict.fromkeys([*facts.arms, *(name for question in facts.questions for name in arm_names(question))])
    return (
        _environment(page)
        .get_template(f"{page}.j2")
        .render(
            facts=facts,
            chapters=chapters,
            sections=methods_sections(facts),
            networks=networks_table(facts),
            missing=missing_runs(facts, arms),
            recommended=recommend(facts),
            rule=RULE,
            run_link=facts.links.run(facts.run_id),
            date=date,
        )
    )


def render_claim(card: ClaimCard, facts: PlanRunFacts, *, date: str) -> str:
    """Return the page of one claim, which embeds everything it needs."""
    return _environment("claim.html").get_template("claim.html.j2").render(card=card, facts=facts, date=date)


def _environment(page: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=page.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "typeset": typeset, "data_uri": data_uri, "stacked": stacked, "plain": markdown_text, "key_charts": key_charts,
    }  # fmt: skip
    return environment


def key_charts(answers: Sequence[Answer]) -> list[Chart]:
    """Return up to three charts for the short edition: the last ones of the questions that compare most."""
    ranked = sorted((one for one in answers if one.charts), key=lambda one: -one.question.comparisons)
    return [
        next((chart for chart in one.charts if "loss" not in chart.name), one.charts[0]) for one in ranked[:KEY_CHARTS]
    ]


def typeset(text: str) -> str:
    """Return text with plus-minus signs, and numbers that stay on one line with their units."""
    for plain, sign in ((" +- ", "\u00a0\u00b1\u00a0"), (" %", "\u00a0%"), (" = ", "\u00a0=\u00a0")):
        text = text.replace(plain, sign)
    return text.replace("+-", "\u00b1")


def data_uri(chart: Chart) -> str:
    """Return a chart as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(chart.png).decode('ascii')}"


def stacked(charts: Sequence[Chart]) -> list[list[Chart]]:
    """Return charts by column: each high one by itself, the low ones stacked in a last column."""
    low = [chart for chart in charts if chart.height < LOW_CHART]
    if len(low) == len(charts):
        return [[chart] for chart in charts]
    return [*([chart] for chart in charts if chart not in low), *([low] if low else [])]


def markdown_text(text: str) -> str:
    """Return text with Markdown's special characters escaped."""
    for character in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
