"""Renders the answers of a plan run as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report.elements import Answer, Chart, Link, Table
from pipeline.report.methods import methods_sections
from pipeline.report.questions.context import arm_names, missing_runs
from pipeline.report.records import PlanRunFacts

TEMPLATES = Path(__file__).resolve().parent / "templates"
LOW_CHART = 1.9  # inches; lower charts are stacked beside higher ones


def render_html(facts: PlanRunFacts, answers: Sequence[Answer], date: str) -> str:
    """Return the page; everything it needs is embedded."""
    environment = _environment(autoescape=True)
    environment.filters |= {"typeset": typeset, "data_uri": data_uri, "stacked": stacked}
    return environment.get_template("study.html.j2").render(**_variables(facts, answers, date))


def render_markdown(facts: PlanRunFacts, answers: Sequence[Answer], date: str) -> str:
    """Return the same content as Markdown, which refers to the charts as files."""
    environment = _environment(autoescape=False)
    environment.filters |= {"table": markdown_table, "plain": markdown_text, "images": markdown_images}
    return environment.get_template("study.md.j2").render(**_variables(facts, answers, date))


def _environment(*, autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _variables(facts: PlanRunFacts, answers: Sequence[Answer], date: str) -> dict[str, object]:
    chapters: dict[str, list[Answer]] = defaultdict(list)  # by heading
    for answer in answers:
        chapters[answer.question.study].append(answer)
    arms = dict.fromkeys([*facts.arms, *(name for question in facts.questions for name in arm_names(question))])
    return {
        "facts": facts,
        "chapters": chapters,
        "sections": methods_sections(facts),
        "missing": missing_runs(facts, arms),
        "run_link": facts.links.run(facts.run_id),
        "date": date,
    }


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


def markdown_images(charts: Sequence[Chart]) -> str:
    """Return references to the files of charts."""
    return "\n".join(f"![{markdown_text(chart.alt)}](figures/{chart.name}.png)" for chart in charts)


def markdown_table(table: Table | None) -> str:
    """Return a table in Markdown; empty without rows."""
    if table is None or not table.rows:
        return ""
    lines = [f"| {' | '.join(map(markdown_text, table.columns))} |", "|---" * len(table.columns) + "|"]
    for row in table.rows:
        lines.append(f"| {' | '.join(' '.join(map(_markdown_link, cell.parts)) or ' ' for cell in row)} |")
    return "\n".join(lines)


def _markdown_link(part: Link) -> str:
    return f"[{markdown_text(part.text)}]({part.href})" if part.href else markdown_text(part.text)


def markdown_text(text: str) -> str:
    """Return text with Markdown's special characters escaped."""
    for character in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
