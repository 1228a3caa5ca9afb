"""What a report is made from: the arms of a plan run with their finished runs, and the questions about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

from pipeline.plan.outcome import PlanRecord
from pipeline.plan.records import Question
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun

CAP_MARK = "\u2021"  # double dagger

# kinds of questions; `questions/` has a function for each
KINDS = (
    "score",  # test accuracy and precision, learning curves
    "compare",  # test accuracy vs. the reference, paired by seed
    "convergence",  # epochs and seconds to a validation threshold, vs. the reference
    "overfitting",  # training - test accuracy, optionally vs. the reference
    "caching",  # time per epoch and in total on cached features, and the break-even
    "time",  # why training takes longer: epochs, time per epoch, MACs, share of parameters trained
    "labels",  # difference from the reference by number of labels
    "surface",  # accuracy and time over reuse_layers, unfreeze and per_class, and recommended settings
)


@dataclass(frozen=True)
class Member:
    """A finished run of an arm."""

    seed: int  # pairs it with the runs of other arms
    run: FinishedRun  # as read from the tracking store
    reused: bool  # whether it was a cache hit


@dataclass(frozen=True)
class ReportedArm:
    """An arm with its runs."""

    name: str  # in the plan
    label: str  # in tables and charts
    entry_point: str  # of its runs
    members: tuple[Member, ...]  # finished runs, by seed
    failures: tuple[tuple[int, str], ...] = ()  # (seed, reason) of the others

    @property
    def unconverged(self) -> int:
        """Number of runs that were stopped by their epoch cap."""
        return sum(member.run.tags.get(names.CONVERGED, "yes") != "yes" for member in self.members)

    @property
    def marked_label(self) -> str:
        """The label, marked if a run was stopped by its epoch cap."""
        return f"{self.label}{CAP_MARK}" if self.unconverged else self.label


@dataclass(frozen=True)
class LedgerLine:
    """Wall-clock time of a part of a plan run."""

    what: str  # label of an arm, or another part
    runs: int  # number of runs
    seconds: float  # time spent
    saved_seconds: float  # original time of the cached runs


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
    ledger: tuple[LedgerLine, ...] = ()  # wall-clock time by arm; empty if the runs were not made by a plan run
    run_id: str = ""  # the plan run; empty without one

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions, in the plan's order."""
        return self.record.questions

    @property
    def runs(self) -> list[tuple[ReportedArm, Member]]:
        """All finished runs with their arms."""
        return [(arm, member) for arm in self.arms.values() for member in arm.members]
