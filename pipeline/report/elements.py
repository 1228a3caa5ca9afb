"""What a page is put together from: cells, tables, pictures and answers, before anything is typeset.

Numbers become text here once; HTML and Markdown both show that text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pipeline.plan.records import Question
from pipeline.report.records import Member, ReportedArm
from pipeline.report.statistics import Estimate

NOTHING = "-"  # where there is no number
REUSED_MARK = "\u2020"  # a dagger


@dataclass(frozen=True)
class Link:
    """A few words, and the page that they lead to; empty where there is none."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        parts: What it shows, one after the other with spaces between.
        color: Of a swatch before it, as in the figures; empty for none.
        brief: What paper shows instead, where links lead nowhere; empty for the same.
    """

    parts: tuple[Link, ...]
    color: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its columns' headings; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure, drawn.

    Attributes:
        name: Of its file, without `.png`.
        png: The file's content.
        alt: What it shows, in words and numbers.
        width: In inches, as drawn.
        height: In inches, as drawn.
    """

    name: str
    png: bytes
    alt: str
    width: float
    height: float


@dataclass(frozen=True)
class Answer:
    """A question with its answer.

    Attributes:
        question: As the plan asks it.
        headline: The answer in a sentence.
        sentences: The numbers behind it.
        notes: What a reader has to know to read them: missing arms, pairing, hosts, differing parameters.
        table: All numbers; None where no arm finished.
        pictures: The figure's panels.
    """

    question: Question
    headline: str
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Links:
    """Addresses of runs on a tracking server; all empty where none is named.

    Attributes:
        server: Its address.
        experiment_id: MLflow's id.
    """

    server: str
    experiment_id: str

    @property
    def named(self) -> bool:
        """Whether there is a server to link to; a path or a database is none."""
        return self.server.startswith(("http://", "https://"))

    def run(self, run_id: str) -> str:
        """Return the page of one run."""
        if not self.named or not run_id:
            return ""
        return f"{self.server.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def runs(self, arm: ReportedArm) -> str:
        """Return the page of an arm's runs: of the one, or of all side by side."""
        run_ids = [member.run.run_id for member in arm.members]
        if not self.named or len(run_ids) < 2:
            return self.run(run_ids[0]) if run_ids else ""
        chosen, experiments = quote(json.dumps(run_ids)), quote(json.dumps([self.experiment_id]))
        return f"{self.server.rstrip('/')}/#/compare-runs?runs={chosen}&experiments={experiments}"


def cell(text: object, href: str = "") -> Cell:
    """Return a cell with some text."""
    return Cell((Link(str(text), href),))


def seed_cell(members: Sequence[Member], links: Links) -> Cell:
    """Return a cell with runs' seeds, each leading to its run, reused ones marked; on paper their number."""
    reused = sum(member.reused for member in members)
    seeds = tuple(
        Link(f"{member.seed}{REUSED_MARK if member.reused else ''}", links.run(member.run.run_id)) for member in members
    )
    return Cell(seeds, brief=f"n = {len(members)}" + (f", {reused}{REUSED_MARK}" if reused else ""))


def sentence(text: str) -> str:
    """Return text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def percent_text(found: Estimate | None, unit: str = "") -> str:
    """Return a fraction in percent with its interval, and a unit in running text."""
    return found.percent(unit) if found else NOTHING


def seconds_text(found: Estimate | None, unit: str = "") -> str:
    """Return seconds with their interval, with as many digits as their size asks for, and a unit in running text."""
    return found.text(1, second_digits(found.mean), unit) if found else NOTHING


def second_digits(seconds: float) -> int:
    """Return how many digits after the point a duration needs: three that count, at most four."""
    if seconds <= 0 or not math.isfinite(seconds):
        return 1
    return min(4, max(1, 2 - math.floor(math.log10(seconds))))


def count_text(found: Estimate | None, unit: str = "") -> str:
    """Return a count, such as of epochs, with its interval, and a unit in running text."""
    return found.text(1, 1, unit) if found else NOTHING


def p_text(p: float) -> str:
    """Return a p value, such as `0.032` or `< 0.001`."""
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(words: list[str] | tuple[str, ...]) -> str:
    """Return words as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
