"""What do cached features save, and why does one arm train longer than another? Kinds `caching` and `time`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.charts import Series, line_chart
from pipeline.report.elements import NO_VALUE, Answer, Chart
from pipeline.report.questions.accuracy import loss_chart
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.quantities import (
    BREAK_EVEN,
    EPOCH_TIME,
    EPOCHS,
    FEATURES_TIME,
    MACS,
    SAVED_PER_EPOCH,
    TEST_ACCURACY,
    TIME_WITH_FEATURES,
    TRAINED_SHARE,
    TRAINING_TIME,
    Quantity,
    pair,
    positive,
    seconds_per_epoch,
)
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import ratio_verdict
from pipeline.tracking import names


def caching(context: QuestionContext) -> Answer:
    """Report the speedup from cached features per epoch and in total, and when they break even."""
    comparable = context.times_comparable()
    verdicts: list[str] = []
    sentences: list[str] = []
    for arm in context.others:
        if comparable and (speedup := _epoch_speedup(context, arm)):
            verdicts.append(f"{arm.label} vs. {context.reference_arm.label}: {speedup}")
            sentences.append(_total_times(context, arm))
        sentences += [_break_even(arm), _accuracy_change(context, arm)]
    columns = (EPOCH_TIME, EPOCHS, TRAINING_TIME, FEATURES_TIME, BREAK_EVEN, TEST_ACCURACY)
    return Answer(
        context.question,
        f"{'; '.join(verdicts)}." if verdicts else "Times are not compared.",
        tuple(sentences),
        context.table(*(quantity.column for quantity in columns)),
        (*context.bars(EPOCH_TIME, "epoch_seconds", "Time per epoch"), *_elapsed_chart(context)) if comparable else (),
    )


def _epoch_speedup(context: QuestionContext, arm: ReportedArm) -> str:
    """Return how an arm's epochs compare with equally many of the reference; empty without shared seeds."""
    counts, others = (_epoch_counts(one) for one in (arm, context.reference_arm))
    epochs = {seed: min(counts[seed], others[seed]) for seed in counts.keys() & others.keys()}
    pairing = pair(*(positive(seconds_per_epoch(one, epochs)) for one in (context.reference_arm, arm)))
    if pairing is None:
        return ""
    verdict = ratio_verdict(pairing.ratio, above="faster per epoch", below="slower per epoch")
    timed = sorted({epochs[seed] for seed in pairing.seeds})
    span = f"{timed[0]}" if len(timed) == 1 else f"{timed[0]} to {timed[-1]}"
    return f"{verdict}, timed over the first {span} epochs of both"


def _epoch_counts(arm: ReportedArm) -> dict[int, int]:
    return {member.seed: len(member.run.curves.get(names.EPOCH_SECONDS, [])) for member in arm.members}


def _total_times(context: QuestionContext, arm: ReportedArm) -> str:
    """Return how whole training runs compare, without and with the time for feature extraction."""
    parts = []
    for quantity in (TRAINING_TIME, TIME_WITH_FEATURES):
        if pairing := context.pair(arm, quantity, for_ratio=True):
            times = [quantity.text(one, unit=True) for one in (arm, context.reference_arm)]
            verdict = ratio_verdict(pairing.ratio, above="slower", below="faster")
            parts.append(f"{quantity.name} {times[0]} vs. {times[1]}, {verdict}")
    return f"{arm.label} vs. {context.reference_arm.label}: {'; '.join(parts)}." if parts else ""


def _break_even(arm: ReportedArm) -> str:
    epochs, trained = BREAK_EVEN.mean(arm), EPOCHS.mean(arm)
    if epochs is None or trained is None:
        return ""
    reached = "reached" if trained.mean >= epochs.mean else "not reached"
    return (
        f"{arm.label}: feature extraction took {FEATURES_TIME.text(arm, unit=True)} and saves "
        f"{SAVED_PER_EPOCH.text(arm, unit=True)} per epoch. Break-even after {BREAK_EVEN.text(arm, unit=True)}: "
        f"{reached} within one run ({EPOCHS.text(arm, unit=True)})."
    )


def _accuracy_change(context: QuestionContext, arm: ReportedArm) -> str:
    pairing = context.pair(arm, TEST_ACCURACY)
    if pairing is None:
        return ""
    both = f"{arm.label} and {context.reference_arm.label}"
    largest = max(map(abs, pairing.differences.values()))
    if largest == 0:
        return f"{both} have identical test accuracy for every seed."
    return f"Test accuracies of {both} differ by at most {largest:.2f} pp per seed."


def _elapsed_chart(context: QuestionContext) -> list[Chart]:
    """Draw elapsed seconds over epochs, starting with feature extraction."""
    series = []
    for arm in context.arms:
        first = FEATURES_TIME.values(arm)
        curves = tuple(
            np.cumsum([first.get(member.seed, 0.0), *member.run.curves.get(names.EPOCH_SECONDS, [])]).tolist()
            for member in arm.members
        )
        series.append(Series(arm.marked_label, context.styles[arm.name], range(len(curves[0])), curves))
    ends = "; ".join(f"{one.label} {np.mean([curve[-1] for curve in one.curves]):.2f} s" for one in series)
    alt = f"Elapsed seconds by epoch, including feature extraction before the first. At the end: {ends}."
    return [line_chart(context.chart_text("elapsed", "Elapsed time by epoch", alt, ylabel="s"), series)]


def time(context: QuestionContext) -> Answer:
    """Report why arms train longer or shorter than the reference: epochs, time per epoch, compute."""
    reference = context.reference_arm
    comparable = context.times_comparable()
    verdicts: list[str] = []
    sentences: list[str] = []
    for arm in context.others:
        pairing = context.pair(arm, TRAINING_TIME, for_ratio=True)
        if comparable and pairing:
            verdict = ratio_verdict(pairing.ratio, above="slower", below="faster")
            verdicts.append(f"{arm.label} vs. {reference.label}: {verdict}")
        sentences += _explanation(context, arm, (EPOCHS, EPOCH_TIME, MACS) if comparable else (EPOCHS, MACS))
    charts = [
        *context.bars(TRAINING_TIME, "seconds", "Training time"),
        *context.bars(EPOCHS, "epochs", "Epochs trained"),
        *context.bars(EPOCH_TIME, "epoch_seconds", "Time per epoch"),
        *loss_chart(context, by_time=True),
    ]
    return Answer(
        context.question,
        f"Training time: {'; '.join(verdicts)}." if verdicts else "Times are not compared.",
        tuple(sentences),
        context.table(
            TRAINING_TIME.column, EPOCHS.column, EPOCH_TIME.column, (MACS.heading, MACS.mean_text),
            (TRAINED_SHARE.heading, TRAINED_SHARE.mean_text),
        ),
        tuple(charts) if comparable else (),
    )  # fmt: skip


def _explanation(context: QuestionContext, arm: ReportedArm, factors: Sequence[Quantity]) -> list[str]:
    """Return the ratios that a ratio of training times consists of, and which dominates."""
    reference = context.reference_arm
    pairings = {quantity: context.pair(arm, quantity, for_ratio=True) for quantity in factors}
    ratios = {quantity: pairing.ratio for quantity, pairing in pairings.items() if pairing}
    if not ratios:
        return []
    listed = "; ".join(f"{quantity.name} {ratio.text()}" for quantity, ratio in ratios.items())
    sentences = [f"Ratios {arm.label} / {reference.label}: {listed}."]
    causes = {"the number of epochs": ratios.get(EPOCHS), "the time per epoch": ratios.get(EPOCH_TIME)}
    logs = {cause: abs(math.log(ratio.mean)) for cause, ratio in causes.items() if ratio}
    if len(logs) == len(causes):
        dominant = max(logs, key=lambda cause: logs[cause])
        sentences.append(f"Takeaway: {dominant} accounts for more of the difference on average.")
    shares = [TRAINED_SHARE.mean_text(one) for one in (arm, reference)]
    if NO_VALUE not in shares:
        sentences.append(f"{arm.label} trains {shares[0]} % of its parameters, {reference.label} {shares[1]} %.")
    return sentences
