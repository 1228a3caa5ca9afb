"""What a report is made from: the arms of a plan run with their finished runs, and the questions about them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan.records import Question
from pipeline.tracking.queries import Arm

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
    run: Arm  # as read from the tracking store
    reused: bool  # whether it was a cache hit


@dataclass(frozen=True)
class ReportedArm:
    """An arm with its runs."""

    name: str  # in the plan
    label: str  # in tables and charts
    entry_point: str  # of its runs
    members: tuple[Member, ...]  # finished runs, by seed
    failures: tuple[tuple[int, str], ...] = ()  # (seed, reason) of the others


@dataclass(frozen=True)
class LedgerLine:
    """Wall-clock time of a part of a plan run."""

    what: str  # label of an arm, or another part
    runs: int  # number of runs
    seconds: float  # time spent
    saved_seconds: float  # original time of the cached runs


@dataclass(frozen=True)
class PlanRunFacts:
    """Everything that the report of a plan run is made from."""

    name: str  # of the plan
    title: str  # heading of the report
    description: str  # one paragraph
    profile: str  # of the plan
    seeds: int  # number of seeds requested
    arms: dict[str, ReportedArm]  # by name, in the plan's order
    questions: tuple[Question, ...]  # in the plan's order
    ledger: tuple[LedgerLine, ...] = ()  # wall-clock time by arm; empty if the runs were not made by a plan run
    total_seconds: float = 0.0  # wall-clock time of the plan run
    run_id: str = ""  # the plan run; empty without one
    server: str = ""  # tracking URI for links; empty without a server
    experiment_id: str = ""  # MLflow's id
    command: str = ""  # repeats the plan run
    missing: tuple[str, ...] = ()  # further sentences on what is missing

    @property
    def runs(self) -> list[tuple[ReportedArm, Member]]:
        """All finished runs with their arms."""
        return [(arm, member) for arm in self.arms.values() for member in arm.members]
