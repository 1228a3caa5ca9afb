"""What answers consist of, independent of the output format: cells, tables, charts, links.

Numbers are formatted once; HTML and Markdown show the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.plan.records import Question
from pipeline.report.records import Links, Member

NO_VALUE = "-"
CACHED_MARK = "\u2020"  # a dagger


@dataclass(frozen=True)
class Link:
    """Text with the address it links to; no link if `href` is empty."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """One table cell."""

    parts: tuple[Link, ...]  # texts, joined by spaces
    color: str = ""  # of a swatch in front, as in the charts; empty for none
    brief: str = ""  # replaces `parts` in print; empty to print `parts`


@dataclass(frozen=True)
class Table:
    """A table with column headings; the first column is the row heading."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A rendered chart."""

    name: str  # file name without `.png`
    png: bytes  # file content
    alt: str  # text alternative, with the numbers
    width: float  # in inches
    height: float  # in inches


@dataclass(frozen=True)
class Answer:
    """A question with its answer."""

    question: Question  # from the plan
    headline: str  # the answer in one sentence
    sentences: tuple[str, ...] = ()  # supporting numbers
    table: Table | None = None  # all numbers; None if no arm has runs
    charts: tuple[Chart, ...] = ()  # small panels, shown side by side
    verdicts: Table | None = None  # of all comparisons; without rows if there are none
    conclusion: str = ""  # what follows from the verdicts, in prose; empty if the question compares nothing
    notes: tuple[str, ...] = ()  # caveats: missing arms, seeds, hosts, parameters that differ


def text_cell(text: object, href: str = "") -> Cell:
    """Return a cell with one text."""
    return Cell((Link(str(text), href),))


def text_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table without links."""
    return Table(tuple(columns), tuple(tuple(map(text_cell, row)) for row in rows))


def seed_cell(members: Sequence[Member], links: Links) -> Cell:
    """Return a cell with the seeds of runs, each linked to its run; cached runs are marked."""
    cached = sum(member.reused for member in members)
    seeds = tuple(
        Link(f"{member.seed}{CACHED_MARK if member.reused else ''}", links.run(member.run.run_id)) for member in members
    )
    return Cell(seeds, brief=f"n = {len(members)}" + (f", {cached}{CACHED_MARK}" if cached else ""))


def capitalized(text: str) -> str:
    """Return text with its first letter in upper case, the rest unchanged."""
    return text[:1].upper() + text[1:]


def joined(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
