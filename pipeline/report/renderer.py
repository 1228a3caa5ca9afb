"""A study's answers as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import protocol
from pipeline.report.elements import Answer, Cell, Link, Links, Picture, Table
from pipeline.report.questions.context import missing_lines
from pipeline.report.records import PlanRunFacts

TEMPLATES = Path(__file__).resolve().parent / "templates"
LONG = 30  # characters: cells of more wrap
LOW = 1.9  # inches: panels of few rows, which go on top of each other beside a tall one


@dataclass(frozen=True)
class Chapter:
    """A study's questions under their heading."""

    heading: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Section:
    """A part of the protocol: a heading, lines and at most one table."""

    heading: str
    lines: tuple[str, ...] = ()
    table: Table | None = None


def chapters_of(answers: Sequence[Answer]) -> list[Chapter]:
    """Gather answers under their studies, in the order of their first questions."""
    headings = dict.fromkeys(answer.question.study for answer in answers)
    return [
        Chapter(heading, tuple(answer for answer in answers if answer.question.study == heading))
        for heading in headings
    ]


def protocol_sections(facts: PlanRunFacts) -> list[Section]:
    """Return how the numbers came about, and where the time went."""
    sections = [
        Section("How to read the numbers", tuple(protocol.reading_lines(facts))),
        Section("Versions and hardware", tuple(protocol.machine_lines(facts))),
        Section("Where the time went", tuple(protocol.ledger_lines(facts)), protocol.ledger_table(facts)),
        Section("Where compared arms differ", (), protocol.differences_table(facts)),
        Section("Data", tuple(protocol.data_lines(facts)), protocol.data_table(facts)),
        Section("Budgets", (), protocol.budget_table(facts)),
        Section("Every run", (), protocol.runs_table(facts)),
    ]
    return [one for one in sections if one.lines or (one.table and one.table.rows)]


def all_missing(facts: PlanRunFacts) -> list[str]:
    """Say what is missing in the whole study."""
    asked = [
        name
        for question in facts.questions
        for name in (*question.arms, question.reference, *(name for pair in question.labelled for name in pair))
    ]
    lines = [line for name in dict.fromkeys([*facts.arms, *filter(None, asked)]) for line in missing_lines(facts, name)]
    return list(dict.fromkeys([*lines, *facts.missing]))


def render_html(facts: PlanRunFacts, answers: Sequence[Answer], written: str) -> str:
    """Return the page; `written` is its date."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"typeset": typeset, "data_uri": data_uri, "stacked": stacked, "pixels": pixels}
    environment.tests["long"] = is_long
    return environment.get_template("study.html.j2").render(**_context(facts, answers, written))


def render_markdown(facts: PlanRunFacts, answers: Sequence[Answer], written: str) -> str:
    """Return the same as Markdown, with the figures as files beside it."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"table": markdown_table, "plain": markdown_text}
    return environment.get_template("study.md.j2").render(**_context(facts, answers, written))


def _context(facts: PlanRunFacts, answers: Sequence[Answer], written: str) -> dict[str, object]:
    links = Links(facts.server, facts.experiment_id)
    return {
        "facts": facts,
        "chapters": chapters_of(answers),
        "sections": protocol_sections(facts),
        "missing": all_missing(facts),
        "run_count": sum(len(arm.members) for arm in facts.arms.values()),
        "study_link": links.run(facts.run_id),
        "written": written,
    }


def typeset(text: str) -> str:
    """Return text with a proper plus-minus sign, and numbers that stay with their units."""
    for plain, well in ((" +- ", "\u00a0\u00b1\u00a0"), (" %", "\u00a0%"), (" = ", "\u00a0=\u00a0")):
        text = text.replace(plain, well)
    return text.replace("+-", "\u00b1")


def data_uri(picture: Picture) -> str:
    """Return a picture as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"


def stacked(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Return pictures as they are put side by side: each tall one by itself, the low ones on top of each other."""
    low = [picture for picture in pictures if picture.height < LOW]
    if len(low) == len(pictures):
        return [[picture] for picture in pictures]
    return [*([picture] for picture in pictures if picture not in low), *([low] if low else [])]


def is_long(one: Cell) -> bool:
    """Whether a cell holds so much that it has to wrap."""
    return sum(len(part.text) for part in one.parts) > LONG


def pixels(inches: float) -> int:
    """Return a length on the page, at its natural size."""
    return round(100 * inches)


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(map(markdown_text, table.columns))} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(_markdown_cell(one) for one in row)} |" for row in table.rows]
    return "\n".join(lines)


def _markdown_cell(one: Cell) -> str:
    return " ".join(_markdown_link(part) for part in one.parts) or " "


def _markdown_link(part: Link) -> str:
    return f"[{markdown_text(part.text)}]({part.href})" if part.href else markdown_text(part.text)


def markdown_text(text: str) -> str:
    """Return text in which Markdown finds no markup of its own."""
    for sign in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
