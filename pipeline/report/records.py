"""What a report is made from: the arms of a plan run with their finished runs, and the questions about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote

from pipeline.plan.outcome import PlanRecord
from pipeline.plan.records import Question
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun, ImagePredictions

UNCONVERGED_MARK = "\u2021"  # double dagger


@dataclass(frozen=True)
class Member:
    """A finished run of an arm."""

    seed: int  # pairs it with the runs of other arms
    run: FinishedRun  # as read from the tracking store
    reused: bool  # whether it was a cache hit
    read_predictions: Callable[[], ImagePredictions | None] | None = field(default=None, compare=False)

    @cached_property
    def predictions(self) -> ImagePredictions | None:
        """What it predicted for its test images, read once; None if that was not logged."""
        return self.read_predictions() if self.read_predictions is not None else None

    @property
    def host(self) -> str:
        """Where it ran; empty if that was not logged."""
        return self.run.tags.get("host", "")

    @property
    def hardware(self) -> str:
        """The class of hardware that it ran on; empty if that was not logged."""
        return self.run.tags.get(names.HARDWARE, "")


@dataclass(frozen=True)
class ReportedArm:
    """An arm with its runs."""

    name: str  # in the plan
    label: str  # in tables and charts
    entry_point: str  # of its runs
    members: tuple[Member, ...]  # finished runs, by seed
    failures: tuple[tuple[int, str], ...] = ()  # (seed, reason) of the others
    seconds: float = 0.0  # wall-clock time of its steps in this plan run

    @property
    def saved_seconds(self) -> float:
        """Original wall-clock time of the cached runs."""
        return sum(member.run.metrics.get(names.TOTAL_SECONDS, 0.0) for member in self.members if member.reused)

    def parameter(self, name: str) -> str:
        """Return a parameter's value; several, joined by commas, if the runs differ; empty if no run has it."""
        values = dict.fromkeys(member.run.params.get(name, "") for member in self.members)
        return ", ".join(value for value in values if value)

    @property
    def base_run_ids(self) -> list[str]:
        """The distinct base runs of its runs; an empty id for runs without a base."""
        return list(dict.fromkeys(member.run.tags.get(names.BASE_RUN_ID, "") for member in self.members))

    @property
    def unconverged(self) -> dict[str, int]:
        """Number of runs that did not converge, by reason: the epoch cap, or the tolerance of a solver."""
        tags = [member.run.tags.get(names.CONVERGED, "yes") for member in self.members]
        return dict(Counter(tag.removeprefix("no: ") for tag in tags if tag != "yes"))

    @property
    def marked_label(self) -> str:
        """The label, marked if a run did not converge."""
        return f"{self.label}{UNCONVERGED_MARK}" if self.unconverged else self.label


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


@dataclass(frozen=True)
class PlanRunFacts:
    """Everything that the report of a plan run is made from."""

    record: PlanRecord
    arms: dict[str, ReportedArm]  # by name, in the plan's order
    links: Links
    run_id: str = ""  # the plan run; empty without one

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions, in the plan's order."""
        return self.record.questions

    @property
    def finished_arms(self) -> list[ReportedArm]:
        """The arms with at least one finished run."""
        return [arm for arm in self.arms.values() if arm.members]

    @property
    def runs(self) -> list[tuple[ReportedArm, Member]]:
        """All finished runs with their arms."""
        return [(arm, member) for arm in self.arms.values() for member in arm.members]
