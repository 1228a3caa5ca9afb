"""The numbers that answers report: how each is read from runs, formatted, and compared with a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pipeline.report.elements import NO_VALUE
from pipeline.report.number_text import estimate_text
from pipeline.report.records import ReportedArm
from pipeline.statistics.estimates import Estimate, Pairs, Scale, estimate
from pipeline.statistics.estimates import pair as pair_values
from pipeline.tracking import names

Values = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Quantity:
    """A number per run."""

    name: str  # in sentences
    heading: str  # in tables, with the unit
    read: Callable[[ReportedArm], Values]  # returns the logged values of an arm's runs
    scale: float = 1.0  # reported value per logged value
    unit: str = "s"  # of the reported value
    digits: int | None = None  # decimals; None for three significant digits
    difference_unit: str = ""  # of differences from the reference; empty if they are compared as ratios
    lower_is_better: bool = True
    words: tuple[str, str] | None = ("slower", "faster")  # for ratios above and below one; None for just the ratio

    @property
    def compared_as(self) -> Scale:
        """How values are compared with a reference's."""
        return "difference" if self.difference_unit else "ratio"

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value, which end intervals in charts."""
        return (0.0, 100.0) if self.unit == "%" else (-math.inf if self.unit == "pp" else 0.0, math.inf)

    def values(self, arm: ReportedArm) -> Values:
        """Return the values of an arm's runs by seed, in the reported unit; runs without one are left out."""
        return {seed: self.scale * value for seed, value in sorted(self.read(arm).items())}

    def pair(self, arm: ReportedArm, reference: ReportedArm) -> Pairs:
        """Pair the finite values of two arms by seed, for ratios the positive ones; empty without a shared seed."""
        lowest = 0.0 if self.compared_as == "ratio" else -math.inf
        sides = (
            {seed: value for seed, value in self.values(one).items() if lowest < value < math.inf}
            for one in (arm, reference)
        )
        return pair_values(*sides)

    @property
    def column(self) -> tuple[str, Callable[[ReportedArm], str]]:
        """A table column: heading, and text of an arm's cell."""
        return self.heading, self.text

    def mean(self, arm: ReportedArm) -> Estimate | None:
        """Return the mean over seeds; None without values."""
        values = self.values(arm)
        return estimate(list(values.values()), bounds=self.bounds) if values else None

    def text(self, arm: ReportedArm, *, unit: bool = False) -> str:
        """Return the mean with its interval, and optionally its unit."""
        mean = self.mean(arm)
        return estimate_text(mean, self.decimals(mean.mean), unit=f" {self.unit}" if unit else "") if mean else NO_VALUE

    def mean_text(self, arm: ReportedArm) -> str:
        """Return the mean without an interval, for numbers that do not depend on the seed."""
        mean = self.mean(arm)
        return f"{mean.mean:.{self.decimals(mean.mean)}f}" if mean else NO_VALUE

    def number(self, value: float) -> str:
        """Return one value with its unit."""
        return f"{value:.{self.decimals(value)}f} {self.unit}"

    def decimals(self, value: float) -> int:
        """Return the number of decimals for a value: fixed, or for three significant digits, at most 4."""
        if self.digits is not None:
            return self.digits
        return min(4, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else 1


def metric(arm: ReportedArm, name: str) -> Values:
    """Return a final metric by seed; runs without it are left out."""
    return {member.seed: member.run.metrics[name] for member in arm.members if name in member.run.metrics}


def seconds_per_epoch(arm: ReportedArm, epochs: Mapping[int, int] | None = None) -> Values:
    """Return the mean seconds per epoch by seed, over all epochs or over the first `epochs[seed]`."""
    curves = {member.seed: member.run.curves.get(names.EPOCH_SECONDS, []) for member in arm.members}
    if epochs is not None:
        curves = {seed: curve[: epochs.get(seed)] for seed, curve in curves.items()}
    return {seed: sum(curve) / len(curve) for seed, curve in curves.items() if curve}


def train_test_gap(arm: ReportedArm) -> Values:
    """Return training accuracy - test accuracy by seed."""
    train, test = metric(arm, names.TRAIN_FINAL_ACCURACY), metric(arm, names.TEST_ACCURACY)
    return {seed: train[seed] - test[seed] for seed in train.keys() & test.keys()}


def time_with_features(arm: ReportedArm) -> Values:
    """Return training time + the time for feature extraction, if there was any, by seed."""
    features = metric(arm, names.FEATURES_SECONDS)
    return {seed: seconds + features.get(seed, 0.0) for seed, seconds in metric(arm, names.FIT_SECONDS).items()}


def _fraction(name: str, heading: str, metric_name: str) -> Quantity:
    read = partial(metric, name=metric_name)
    return Quantity(name, f"{heading} (%)", read, 100, "%", 2, "pp", lower_is_better=False)


def _seconds(name: str, heading: str, metric_name: str) -> Quantity:
    return Quantity(name, f"{heading} (s)", partial(metric, name=metric_name))


def _epochs(name: str, heading: str, metric_name: str) -> Quantity:
    read = partial(metric, name=metric_name)
    return Quantity(name, heading, read, 1, "epochs", 1, words=None)


TEST_ACCURACY = _fraction("test accuracy", "test acc.", names.TEST_ACCURACY)
TEST_PRECISION = _fraction("macro precision", "test precision", names.TEST_PRECISION)
TRAIN_ACCURACY = _fraction("training accuracy", "training acc.", names.TRAIN_FINAL_ACCURACY)
VAL_ACCURACY = _fraction("validation accuracy", "validation acc.", names.VAL_FINAL_ACCURACY)
CV_ACCURACY = _fraction("cross-validation accuracy", "CV acc.", "cv/accuracy")
CV_PRECISION = _fraction("cross-validation precision", "CV precision", "cv/precision")
GAP = Quantity("train-test gap", "train - test (pp)", train_test_gap, 100, "pp", 2, "pp")
TRAINED_SHARE = replace(_fraction("share trained", "params trained", names.TRAINABLE_SHARE), digits=1)

TRAINING_TIME = _seconds("training time", "training", names.FIT_SECONDS)
TRIES_TIME = _seconds("time of all tries", "all tries", names.TRIES_SECONDS)
SEARCH_TIME = _seconds("search time", "search", "time/study_seconds")
FEATURES_TIME = _seconds("feature extraction", "feature extraction", names.FEATURES_SECONDS)
TIME_WITH_FEATURES = Quantity("including feature extraction", "training + feature extraction (s)", time_with_features)
SAVED_PER_EPOCH = _seconds("saved per epoch", "saved per epoch", names.FEATURES_SAVED_SECONDS)
EPOCH_TIME = Quantity("time per epoch", "time per epoch (ms)", seconds_per_epoch, 1000, "ms")

EPOCHS = _epochs("epochs", "epochs", names.EPOCHS_RUN)
BREAK_EVEN = _epochs("break-even", "break-even epochs", names.BREAK_EVEN_EPOCHS)
MACS = Quantity(
    "MACs per epoch", "MACs per epoch (M)", partial(metric, name=names.EPOCH_OPERATIONS), 1e-6, "M", words=None
)


def equal_epochs_time(arm: ReportedArm, reference: ReportedArm) -> Quantity:
    """Return the time per epoch over the epochs that both arms have with a seed."""
    counts, others = (
        {member.seed: len(member.run.curves.get(names.EPOCH_SECONDS, [])) for member in one.members}
        for one in (arm, reference)
    )
    epochs = {seed: min(counts[seed], others[seed]) for seed in counts.keys() & others.keys()}
    return replace(EPOCH_TIME, read=partial(seconds_per_epoch, epochs=epochs))


def epochs_to(threshold: float) -> Quantity:
    """Return the epochs until validation accuracy first reached a threshold."""
    return _epochs("epochs", f"epochs to {100 * threshold:.0f} %", f"epochs/to_val_{threshold}")


def time_to(threshold: float) -> Quantity:
    """Return the training time until validation accuracy first reached a threshold."""
    return _seconds("training time", f"time to {100 * threshold:.0f} %", f"time/to_val_{threshold}")
