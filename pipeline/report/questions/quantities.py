"""The numbers that answers report: how each is read from runs, formatted, and compared with a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pipeline.report.elements import NO_VALUE
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import Estimate, Ratio, estimate, paired_ratio, seeds_text
from pipeline.tracking import names

Values = Mapping[int, float]  # by seed
NO_VERDICT = "no verdict (1 seed)"
NOT_SIGNIFICANT = "not significant (95 % CI includes 0)"


@dataclass(frozen=True)
class Pairing:
    """The values of an arm and of its reference on the seeds that both have."""

    values: Values
    reference: Values

    @property
    def seeds(self) -> tuple[int, ...]:
        """The shared seeds."""
        return tuple(self.values)

    @property
    def differences(self) -> Values:
        """Value - reference, by seed."""
        return {seed: value - self.reference[seed] for seed, value in self.values.items()}

    @property
    def difference(self) -> Estimate:
        """The mean of value - reference."""
        return estimate(list(self.differences.values()))

    @property
    def ratio(self) -> Ratio:
        """Value / reference; all values must be positive."""
        return paired_ratio(list(self.values.values()), list(self.reference.values()))


def pair(values: Values, reference: Values) -> Pairing | None:
    """Pair values by seed; None without a shared seed."""
    seeds = sorted(values.keys() & reference.keys())
    return Pairing({s: values[s] for s in seeds}, {s: reference[s] for s in seeds}) if seeds else None


def positive(values: Values) -> Values:
    """Return the values that a ratio can be computed from."""
    return {seed: value for seed, value in values.items() if value > 0}


@dataclass(frozen=True)
class Quantity:
    """A number per run."""

    name: str  # in sentences
    heading: str  # in tables, with the unit
    read: Callable[[ReportedArm], Values]  # returns the logged values of an arm's runs
    scale: float = 1.0  # reported value per logged value
    unit: str = "s"  # of the reported value
    digits: int | None = None  # decimals; None for three significant digits
    difference_unit: str = "s"  # of differences
    above: str = "slower"  # word for a positive difference from the reference
    below: str = "faster"  # word for a negative one

    def values(self, arm: ReportedArm) -> Values:
        """Return the values of an arm's runs by seed, in the reported unit; runs without one are left out."""
        return {seed: self.scale * value for seed, value in sorted(self.read(arm).items())}

    def pair(self, arm: ReportedArm, reference: ReportedArm) -> Pairing | None:
        """Pair the values of two arms by seed; None without a shared seed."""
        return pair(self.values(arm), self.values(reference))

    @property
    def column(self) -> tuple[str, Callable[[ReportedArm], str]]:
        """A table column: heading, and text of an arm's cell."""
        return self.heading, self.text

    def mean(self, arm: ReportedArm) -> Estimate | None:
        """Return the mean over seeds; None without values."""
        values = self.values(arm)
        return estimate(list(values.values())) if values else None

    def text(self, arm: ReportedArm, *, unit: bool = False) -> str:
        """Return the mean with its interval, and optionally its unit."""
        mean = self.mean(arm)
        return mean.text(self.decimals(mean.mean), unit=f" {self.unit}" if unit else "") if mean else NO_VALUE

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

    def difference_text(self, difference: Estimate) -> str:
        """Return a signed difference with its interval, as tables show it."""
        return difference.text(self.decimals(abs(difference.mean)), sign=True)

    def _difference_size(self, difference: Estimate) -> str:
        size = abs(difference.mean)
        return f"{size:.{self.decimals(size)}f} {self.difference_unit}"

    def verdict(self, difference: Estimate) -> str:
        """Return what a paired difference shows, such as `2.00 pp higher (3 seeds)`."""
        word, seeds = self._verdict_word(difference), seeds_text(difference.count)
        if word == NO_VERDICT:
            return word
        if word == NOT_SIGNIFICANT:
            return f"{word.removesuffix(')')}, {seeds})"
        return f"{self._difference_size(difference)} {word} ({seeds})"

    def _verdict_word(self, difference: Estimate) -> str:
        if difference.count < 2:
            return NO_VERDICT
        if not difference.significant:
            return NOT_SIGNIFICANT
        return self.above if difference.mean > 0 else self.below

    def signed_verdict(self, value: Estimate) -> str:
        """Return what a mean that can have either sign shows, such as `+2.00 pp (3 seeds)`."""
        if value.count < 2 or not value.significant:
            return self.verdict(value)
        return f"{value.mean:+.{self.decimals(value.mean)}f} {self.unit} ({seeds_text(value.count)})"

    def grouped_verdicts(self, differences: Mapping[str, Estimate]) -> str:
        """Return what differences, by the arm's label, show; arms with the same verdict are grouped."""
        groups: dict[str, list[str]] = {self.above: [], self.below: [], NOT_SIGNIFICANT: [], NO_VERDICT: []}
        for label, difference in differences.items():
            word, seeds = self._verdict_word(difference), seeds_text(difference.count)
            size = f"{self._difference_size(difference)}, " if word in (self.above, self.below) else ""
            groups[word].append(label if word == NO_VERDICT else f"{label} ({size}{seeds})")
        return "; ".join(f"{verdict}: {', '.join(labels)}" for verdict, labels in groups.items() if labels)


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
    return Quantity(name, f"{heading} (%)", read, 100, "%", 2, "pp", "higher", "lower")


def _seconds(name: str, heading: str, metric_name: str) -> Quantity:
    return Quantity(name, f"{heading} (s)", partial(metric, name=metric_name))


def _epochs(name: str, heading: str, metric_name: str) -> Quantity:
    read = partial(metric, name=metric_name)
    return Quantity(name, heading, read, 1, "epochs", 1, "epochs", "more", "fewer")


TEST_ACCURACY = _fraction("test accuracy", "test acc.", names.TEST_ACCURACY)
TEST_PRECISION = _fraction("macro precision", "test precision", names.TEST_PRECISION)
TRAIN_ACCURACY = _fraction("training accuracy", "training acc.", names.TRAIN_FINAL_ACCURACY)
VAL_ACCURACY = _fraction("validation accuracy", "validation acc.", names.VAL_FINAL_ACCURACY)
CV_ACCURACY = _fraction("cross-validation accuracy", "CV acc.", "cv/accuracy")
CV_PRECISION = _fraction("cross-validation precision", "CV precision", "cv/precision")
GAP = Quantity("train-test gap", "train - test (pp)", train_test_gap, 100, "pp", 2, "pp", "larger", "smaller")
TRAINED_SHARE = replace(_fraction("share trained", "params trained", names.TRAINABLE_SHARE), digits=1)

TRAINING_TIME = _seconds("training time", "training", names.FIT_SECONDS)
TRIES_TIME = _seconds("time of all tries", "all tries", names.TRIES_SECONDS)
SEARCH_TIME = _seconds("search time", "search", "time/study_seconds")
FEATURES_TIME = _seconds("feature extraction", "feature extraction", names.FEATURES_SECONDS)
TIME_WITH_FEATURES = Quantity("including feature extraction", "training + feature extraction (s)", time_with_features)
SAVED_PER_EPOCH = _seconds("saved per epoch", "saved per epoch", names.FEATURES_SAVED_SECONDS)
EPOCH_TIME = Quantity("time per epoch", "time per epoch (ms)", seconds_per_epoch, 1000, "ms", difference_unit="ms")

EPOCHS = _epochs("epochs", "epochs", names.EPOCHS_RUN)
BREAK_EVEN = _epochs("break-even", "break-even epochs", names.BREAK_EVEN_EPOCHS)
MACS = Quantity("MACs per epoch", "MACs per epoch (M)", partial(metric, name=names.EPOCH_OPERATIONS), 1e-6, "M")


def epochs_to(threshold: float) -> Quantity:
    """Return the epochs until validation accuracy first reached a threshold."""
    return _epochs("epochs", f"epochs to {100 * threshold:.0f} %", f"epochs/to_val_{threshold}")


def time_to(threshold: float) -> Quantity:
    """Return the training time until validation accuracy first reached a threshold."""
    return _seconds("training time", f"time to {100 * threshold:.0f} %", f"time/to_val_{threshold}")
