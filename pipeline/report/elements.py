"""What answers consist of, independent of the output format: cells, tables, charts, links.

Numbers are formatted once; HTML and Markdown show the same text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pipeline.plan.records import Question
from pipeline.report.records import Member, ReportedArm

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
    notes: tuple[str, ...] = ()  # caveats: missing arms, seeds, hosts, parameters that differ
    table: Table | None = None  # all numbers; None if no arm has runs
    charts: tuple[Chart, ...] = ()  # small panels, shown side by side


@dataclass(frozen=True)
class Links:
    """Builds links to runs on a tracking server; every link is empty without one."""

    server: str  # tracking URI; only http(s) URIs are linked
    experiment_id: str  # MLflow's id

    @property
    def base(self) -> str:
        """The address of the UI; empty without a server."""
        return f"{self.server.rstrip('/')}/#" if self.server.startswith(("http://", "https://")) else ""

    def run(self, run_id: str) -> str:
        """Return the address of one run."""
        return f"{self.base}/experiments/{self.experiment_id}/runs/{run_id}" if self.base and run_id else ""

    def runs(self, arm: ReportedArm) -> str:
        """Return the address of an arm's run, or of the comparison of its runs."""
        run_ids = [member.run.run_id for member in arm.members]
        if not self.base or len(run_ids) < 2:
            return self.run(run_ids[0]) if run_ids else ""
        runs, experiments = quote(json.dumps(run_ids)), quote(json.dumps([self.experiment_id]))
        return f"{self.base}/compare-runs?runs={runs}&experiments={experiments}"


def text_cell(text: object, href: str = "") -> Cell:
    """Return a cell with one text."""
    return Cell((Link(str(text), href),))


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
