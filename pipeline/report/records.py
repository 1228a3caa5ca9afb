"""What a study's report is made from: arms with their runs, and the questions asked of them.

Whoever carried the study out fills these in; the report only reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.plan.records import Question
from pipeline.tracking import names
from pipeline.tracking.queries import Arm

CAP_MARK = "\u2021"  # a double dagger

# how a question is answered; each kind has its own sentence, table and figure in `answers.py`
KINDS = (
    "score",  # how good are these arms? accuracy and precision with n and spread, learning curves
    "compare",  # which is better than the reference? paired by seed
    "convergence",  # which converges faster? epochs and seconds to a validation threshold, against the reference
    "overfitting",  # how far is training ahead of test? the gap of each arm, against the reference
    "caching",  # how much faster is it on cached features? seconds an epoch, in all, and the break-even
    "time",  # why does one train longer than the other? epochs, seconds an epoch, multiply-adds, share trained
    "labels",  # how does the difference to the reference depend on the number of labels?
    "surface",  # accuracy and seconds over reuse_layers, unfreeze and per_class, against scratch, and a recipe
)


@dataclass(frozen=True)
class Member:
    """One finished run of an arm.

    Attributes:
        seed: What pairs it with the runs of other arms.
        run: Everything read back from the tracking store.
        reused: Whether it was recognised as finished rather than run now.
    """

    seed: int
    run: Arm
    reused: bool


@dataclass(frozen=True)
class ReportedArm:
    """One arm of a study over its seeds.

    Attributes:
        name: Its name in the plan.
        label: What tables and figures call it.
        entry_point: The stage that ran it.
        members: Its finished runs, by seed.
        failures: Seed and reason of each that did not finish.
    """

    name: str
    label: str
    entry_point: str
    members: tuple[Member, ...]
    failures: tuple[tuple[int, str], ...] = ()

    @property
    def unconverged(self) -> int:
        """The number of runs that their epoch cap stopped, rather than their patience."""
        return sum(member.run.tags.get(names.CONVERGED, "yes") != "yes" for member in self.members)

    @property
    def marked_label(self) -> str:
        """The label for tables and figures, with a mark where a run was stopped by its epoch cap."""
        return f"{self.label}{CAP_MARK}" if self.unconverged else self.label


@dataclass(frozen=True)
class LedgerLine:
    """Where wall-clock went.

    Attributes:
        what: An arm's label, or a part such as `report`.
        runs: How many runs.
        seconds: Spent now, in all of them.
        saved_seconds: What recognised runs took when they were run, and were not run again now.
    """

    what: str
    runs: int
    seconds: float
    saved_seconds: float


@dataclass(frozen=True)
class PlanRunFacts:
    """A whole study, as its report sees it.

    Attributes:
        name: Of the plan, such as `assignments`.
        title: The page's heading.
        description: A paragraph on what was done.
        profile: `quick`, `full`, or whatever the plan calls it.
        seeds: How many were asked for.
        arms: By name, in the plan's order.
        questions: In the plan's order.
        ledger: Where the time went.
        total_seconds: Wall-clock of the study now.
        run_id: The study's own run; empty where there is none.
        server: The tracking server's address, where one is named; numbers then link to their runs.
        experiment_id: MLflow's id, for those links.
        command: What was typed, or would be typed to repeat it.
        missing: Sentences on what else is missing, shown at the top beside the arms' failures.
    """

    name: str
    title: str
    description: str
    profile: str
    seeds: int
    arms: dict[str, ReportedArm]
    questions: tuple[Question, ...]
    ledger: tuple[LedgerLine, ...] = ()
    total_seconds: float = 0.0
    run_id: str = ""
    server: str = ""
    experiment_id: str = ""
    command: str = ""
    missing: tuple[str, ...] = field(default=())
