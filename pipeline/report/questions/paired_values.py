"""Numbers of arms by seed, paired with those of another arm, and whether their times may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.records import Member, ReportedArm
from pipeline.report.statistics import Estimate, Ratio, estimate, paired_difference, paired_p_value, paired_ratio
from pipeline.tracking import names
from pipeline.tracking.queries import Arm

Values = dict[int, float]  # one a seed


@dataclass(frozen=True)
class Pairing:
    """Two arms' values on the seeds that both have.

    Attributes:
        seeds: Those.
        values: Of the arm.
        reference: Of what it is compared with.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def difference(self) -> Estimate:
        """Value - reference, by seed."""
        return paired_difference(self.values, self.reference)

    @property
    def ratio(self) -> Ratio:
        """Value / reference, by seed."""
        return paired_ratio(self.values, self.reference)

    @property
    def p_value(self) -> float:
        """Of the paired t test."""
        return paired_p_value(self.difference)


def pair(values: Mapping[int, float], reference: Mapping[int, float]) -> Pairing | None:
    """Pair values by seed; None where no seed is shared."""
    seeds = tuple(sorted(values.keys() & reference.keys()))
    if not seeds:
        return None
    return Pairing(seeds, tuple(values[seed] for seed in seeds), tuple(reference[seed] for seed in seeds))


def metric(arm: ReportedArm, name: str) -> Values:
    """Return a final metric by seed, of those runs that have it."""
    return {member.seed: member.run.metrics[name] for member in arm.members if name in member.run.metrics}


def gap(arm: ReportedArm) -> Values:
    """Return how far training accuracy is ahead of test accuracy, by seed."""
    train, test = metric(arm, names.TRAIN_FINAL_ACCURACY), metric(arm, names.TEST_ACCURACY)
    return {seed: train[seed] - test[seed] for seed in train.keys() & test.keys()}


def seconds_an_epoch(arm: ReportedArm, epochs: Mapping[int, int] | None = None) -> Values:
    """Return the mean seconds an epoch by seed, over all epochs or over so many of the first."""
    found = {}
    for member in arm.members:
        curve = member.run.curves.get(names.EPOCH_SECONDS, [])[: epochs.get(member.seed) if epochs else None]
        if curve:
            found[member.seed] = sum(curve) / len(curve)
    return found


def shared_epochs(arm: ReportedArm, reference: ReportedArm) -> dict[int, int]:
    """Return the number of epochs that both arms trained, by seed."""
    mine, theirs = (
        {member.seed: len(member.run.curves.get(names.EPOCH_SECONDS, [])) for member in one.members}
        for one in (arm, reference)
    )
    return {seed: min(mine[seed], theirs[seed]) for seed in mine.keys() & theirs.keys()}


def total(*parts: Values) -> Values:
    """Return the sum of several values, on the seeds that all of them have."""
    seeds = set(parts[0]).intersection(*parts[1:])
    return {seed: sum(part[seed] for part in parts) for seed in seeds}


def mean_of(values: Values) -> Estimate | None:
    """Return the mean over seeds; None where there are none."""
    return estimate([values[seed] for seed in sorted(values)]) if values else None


def parameter(arm: ReportedArm, name: str) -> str:
    """Return a parameter's value; several where the runs differ, empty where none has it."""
    found = dict.fromkeys(member.run.params.get(name, "") for member in arm.members)
    return ", ".join(value for value in found if value)


def why_times_differ(arms: Sequence[ReportedArm]) -> str:
    """Return why the times of some arms cannot be compared; empty where all ran on one device of one host."""
    places = sorted({place_of(member.run) for arm in arms for member in arm.members})
    if len(places) < 2 and "" not in places:
        return ""
    reused = "reused " if any(member.reused for arm in arms for member in arm.members) else ""
    where = ", ".join(place or "an unknown one" for place in places)
    return f"Times are not compared: {reused}runs come from more than one host or device ({where})."


def place_of(run: Arm) -> str:
    """Return host and device of a run, the device where it is not the processor; empty where it names no host."""
    host, device = run.tags.get("host", ""), run.params.get("device", "cpu")
    return f"{host} ({device})" if host and device != "cpu" else host


def host_of(member: Member) -> str:
    """Return where a run ran; empty where it does not say."""
    return member.run.tags.get("host", "")
