"""What do cached features save, and why does one arm train longer than another? Kinds `caching` and `time`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.elements import NO_VALUE, Answer, Chart, capitalized
from pipeline.report.line_chart import Series, line_chart
from pipeline.report.number_text import ratio_text
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
)
from pipeline.report.records import ReportedArm
from pipeline.statistics.estimates import estimate_pairs
from pipeline.tracking import names

MINOR_CAUSE = 5.0  # a cause whose logarithm is a fifth of the main one's is not mentioned
TOTAL_TIMES = (TRAINING_TIME, TIME_WITH_FEATURES)


def caching(context: QuestionContext) -> Answer:
    """Report the speedup from cached features per epoch and in total, and when they break even."""
    comparable = context.times_comparable()
    headline = context.main_comparison("Time per epoch")
    sentences: list[str] = []
    if comparable:
        sentences.append(_timed_epochs(context))
        sentences += [context.comparison(quantity, capitalized(quantity.name)) for quantity in TOTAL_TIMES]
    for arm in context.others:
        sentences += [_break_even(arm), _accuracy_change(context, arm)]
    columns = (EPOCH_TIME, EPOCHS, TRAINING_TIME, FEATURES_TIME, BREAK_EVEN, TEST_ACCURACY)
    return Answer(
        context.question,
        headline if comparable and headline else "Times are not compared.",
        tuple(sentences),
        context.table(*(quantity.column for quantity in columns)),
        (*context.bars(EPOCH_TIME, "epoch_seconds", "Time per epoch"), *_elapsed_chart(context)) if comparable else (),
    )


def _timed_epochs(context: QuestionContext) -> str:
    """Return over how many epochs times per epoch are compared; empty without any."""
    counts = [len(member.run.curves.get(names.EPOCH_SECONDS, [])) for arm in context.arms for member in arm.members]
    return f"Timed over as many epochs of an arm as of its reference, at least {min(counts)}." if any(counts) else ""


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
    pairs = context.pair(arm, TEST_ACCURACY)
    if not pairs.seeds:
        return ""
    both = f"{arm.label} and {context.reference_arm.label}"
    largest = float(np.abs(pairs.differences()).max())
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
    comparable = context.times_comparable()
    headline = context.main_comparison("Training time")
    sentences = [
        sentence
        for arm in context.others
        for sentence in _explanation(context, arm, (EPOCHS, EPOCH_TIME, MACS) if comparable else (EPOCHS, MACS))
    ]
    charts = [
        *context.bars(TRAINING_TIME, "seconds", "Training time"),
        *context.bars(EPOCHS, "epochs", "Epochs trained"),
        *context.bars(EPOCH_TIME, "epoch_seconds", "Time per epoch"),
        *loss_chart(context, by_time=True),
    ]
    return Answer(
        context.question,
        headline if comparable and headline else "Times are not compared.",
        tuple(sentences),
        context.table(
            TRAINING_TIME.column, EPOCHS.column, EPOCH_TIME.column, (MACS.heading, MACS.mean_text),
            (TRAINED_SHARE.heading, TRAINED_SHARE.mean_text),
        ),
        tuple(charts) if comparable else (),
        conclusion=" ".join(sentence for sentence in sentences if " because " in sentence),
    )  # fmt: skip


def _explanation(context: QuestionContext, arm: ReportedArm, factors: Sequence[Quantity]) -> list[str]:
    """Explain a ratio of training times: epochs x time per epoch, and what an epoch computes."""
    reference = context.reference_arm
    pairs = {quantity: context.pair(arm, quantity) for quantity in factors}
    ratios = {quantity: estimate_pairs(one, scale="ratio") for quantity, one in pairs.items() if one.seeds}
    if not ratios:
        return []
    listed = "; ".join(f"{quantity.name} {ratio_text(ratio)}" for quantity, ratio in ratios.items())
    sentences = [f"Ratios {arm.label} / {reference.label}: {listed}."]
    if EPOCHS in ratios and EPOCH_TIME in ratios:
        sentences.append(_reason(arm.label, ratios[EPOCHS].mean, ratios[EPOCH_TIME].mean))
    shares = [TRAINED_SHARE.mean_text(one) for one in (arm, reference)]
    if NO_VALUE not in shares:
        frozen = "; frozen blocks need no gradients" if shares[0] != shares[1] else ""
        sentences.append(
            f"{arm.label} trains {shares[0]} % of its parameters, {reference.label} {shares[1]} %{frozen}."
        )
    return sentences


def _reason(label: str, epochs: float, epoch_time: float) -> str:
    """Return why an arm takes longer or shorter, from the ratios of epochs and of time per epoch."""
    shorter = epochs * epoch_time < 1
    causes = {
        f"it needs {'fewer' if epochs < 1 else 'more'} epochs ({epochs:.2f}x)": math.log(epochs),
        f"an epoch takes {'less' if epoch_time < 1 else 'more'} time ({epoch_time:.2f}x)": math.log(epoch_time),
    }
    helping = {cause: abs(size) for cause, size in causes.items() if (size < 0) == shorter}
    first, *rest = sorted(helping, key=lambda cause: -helping[cause])
    joint = f", and {rest[0]}" if rest and helping[rest[0]] > helping[first] / MINOR_CAUSE else ""
    return (
        f"Training time is epochs x time per epoch: {epochs:.2f} x {epoch_time:.2f} = {epochs * epoch_time:.2f}. "
        f"{capitalized(label)} takes {'less' if shorter else 'more'} time because {first}{joint}."
    )
