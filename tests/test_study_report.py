"""The report of synthetic arms: exact sentences, numbers and verdicts; the page in a real browser."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.params import TrainBaseParams, TransferParams
from pipeline.plan.records import KINDS, Claim, Question
from pipeline.report.chosen_settings import chosen_settings
from pipeline.report.elements import Answer, Table
from pipeline.report.loader import write_report
from pipeline.report.networks_table import network_row
from pipeline.report.questions.comparisons import judge_question
from pipeline.report.questions.context import context_of
from pipeline.report.questions.dispatch import answer
from pipeline.report.questions.surface import arms_to_confirm, pareto_front
from pipeline.report.records import Links, Member, PlanRunFacts, ReportedArm
from pipeline.report.renderer import render
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.statistics.estimates import pair
from pipeline.statistics.verdict import Comparison, Verdict, judge
from pipeline.tracking import names
from pipeline.tracking.queries import ImagePredictions, read_trained_run
from tests.page_checks import chromium, page_problems
from tests.synthetic_plan_run import (
    arm_of,
    member,
    plan_run,
    question,
    reference_plan_run,
    run_id_of,
    scored,
    surface_plan_run,
)

SCRATCH = (0.90, 0.92, 0.91)
AHEAD = (0.92, 0.94, 0.93)
UNCLEAR = (0.93, 0.90, 0.92)


def answered(query: Question, *arms: ReportedArm, **more: object) -> Answer:
    return answer(plan_run(arms, query, **more), query)


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[" ".join(part.text for part in cell.parts) for cell in row] for row in table.rows]


# verdicts


def judged(*arms: ReportedArm, **more: object) -> Verdict:
    query = question("compare", arms[0].name, reference=arms[1].name, **more)
    return context_of(plan_run(arms, query), query).primary[0].verdict


ACCURACY = st.floats(0.3, 1.0).map(lambda value: round(value, 4))


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=1, max_size=9))
def test_report_gives_the_verdict_of_the_statistics(pairs: list[tuple[float, float]]) -> None:
    mine, theirs = (dict(enumerate(100 * value for value in side)) for side in zip(*pairs, strict=True))
    found = judged(*(scored(name, [v / 100 for v in side.values()]) for name, side in (("a", mine), ("b", theirs))))
    (expected,) = judge([Comparison("q", pair(mine, theirs), 0.1)])
    assert (found.sign, found.size, found.count) == (expected.sign, expected.size, expected.count)


EIGHT = tuple(0.9 + value / 1000 for value in (1, 4, 2, 6, 3, 5, 7, 2))


def shifted(values: tuple[float, ...], by: float) -> tuple[float, ...]:
    return tuple(value + by + 0.0004 * (-1) ** seed for seed, value in enumerate(values))


def test_both_answers_are_given_at_a_look() -> None:
    better = judged(scored("a", shifted(EIGHT, 0.02)), scored("b", EIGHT))
    assert (better.sign, better.size, better.look) == ("better", "open", 8)
    same = judged(scored("a", shifted(EIGHT, 0)), scored("b", EIGHT), margin=0.5)
    assert (same.sign, same.size) == ("open", "within margin")


@pytest.mark.parametrize(("per_class", "margin"), [("10", 1.0), ("100", 0.5), ("all", 0.1)])
def test_margin_depends_on_labels_unless_stated(per_class: str, margin: float) -> None:
    arms = [scored(name, EIGHT, params={"per_class": per_class}) for name in ("a", "b")]
    assert judged(*arms).margin == margin
    assert judged(*arms, margin=0.3).margin == 0.3


def test_confirmatory_questions_of_a_study_are_corrected_together() -> None:
    arms = [scored("a", shifted(EIGHT, 0.0012)), scored("b", EIGHT), scored("c", shifted(EIGHT, 0))]
    queries = [question("compare", name, reference="b", key=name, confirmatory=True, margin=0.5) for name in ("a", "c")]
    alone = replace(queries[0], confirmatory=False)
    facts = plan_run(arms, *queries)
    together = context_of(facts, queries[0]).primary[0].verdict
    single = context_of(plan_run(arms, alone), alone).primary[0].verdict
    assert together.sign_p == pytest.approx(2 * single.sign_p)
    late = replace(facts, arms={name: arm for name, arm in facts.arms.items() if name != "c"})
    assert context_of(late, queries[0]).primary[0].verdict.sign_p == pytest.approx(2 * single.sign_p)


def test_open_question_says_how_many_seeds_a_verdict_needs() -> None:
    query = question("compare", "a", reference="b", margin=0.5)
    result = answered(query, scored("a", UNCLEAR), scored("b", SCRATCH))
    (note,) = [note for note in result.notes if "needed for a verdict" in note]
    assert re.fullmatch(
        r"Test accuracy: a vs\. b: open; \d+ to \d+ seeds .*are needed for a verdict with 80 % power\.", note
    )


def test_verdict_table_has_descriptive_numbers() -> None:
    images = {names.TEST_IMAGES: 10_000.0}
    arms = [scored("a", AHEAD, metrics=images), scored("b", SCRATCH, metrics=images)]
    (row,) = texts(answered(question("compare", "a", reference="b"), *arms).verdicts)
    assert row == [
        "test accuracy: a vs. b", "3", "+2.00 pp (95 % CI +2.00 to +2.00)", "preliminary: open",
        "preliminary: open (0.1 pp)", "0.250 / 1.000", "-", "0.250", "3 of 3", "+2.00 pp (seed 0)", "at most 0.38 pp",
    ]  # fmt: skip


# question kinds


@pytest.mark.parametrize(
    ("optimizer", "expected"), [("adam", "L2 penalty 0.005"), ("adamw", "decoupled weight decay 0.005")]
)
def test_regularization_names_the_kind_of_weight_decay(optimizer: str, expected: str) -> None:
    params = {"optimizer": optimizer, "weight_decay": "0.005", "learning_rate": "0.001", "batch_size": "20"}
    assert network_row(arm_of("a", [member("a", 0, 0.9, params=params)]))[-1].startswith(f"{expected},")


def test_score_reports_accuracy_with_interval_and_count() -> None:
    result = answered(question("score", "net"), scored("net", SCRATCH, train=0.999, seconds=2.5))
    assert result.headline == "Net: test accuracy 91.00 +- 2.48 % (3 seeds)."
    assert result.sentences == (
        "Net: training accuracy 99.90 +- 0.00 %; trained for 4.0 +- 0.0 epochs in 2.50 +- 0.00 s.",
    )
    assert texts(result.table) == [["net", "0 1 2", "99.90 +- 0.00", "91.00 +- 2.48", "91.00 +- 2.48", "2.50 +- 0.00"]]
    assert [chart.name for chart in result.charts] == ["01_question_1_1_loss", "01_question_1_1_accuracy"]


def test_precision_is_reported_if_the_question_mentions_it() -> None:
    query = question("score", "net", text="What precision does it reach?")
    result = answered(query, scored("net", SCRATCH, precision=0.88))
    assert result.headline == "Net: test accuracy 91.00 +- 2.48 %, macro precision 88.00 +- 0.00 % (3 seeds)."
    assert result.charts[1].alt == (
        "Accuracy (%), mean with 95 % CI, seeds as ticks (filled: test accuracy; hollow: macro precision): net 91.00 +- "
        "2.48 (hollow: 88.00)."
    )
    compared = answered(
        question("compare", "a", reference="b", text="Higher precision?"),
        arm_of("a", [member("a", seed, value, precision=value - 0.1) for seed, value in enumerate(AHEAD)]),
        scored("b", SCRATCH),
    )
    assert compared.headline == (
        "Macro precision: a 83.00 %, b 91.00 %: -8.00 pp (95 % CI -8.00 to -8.00): preliminary (n = 3): sign open; size "
        "open (margin 0.1 pp)."
    )


def test_tuned_arm_reports_cross_validation_results() -> None:
    more = {
        "cv/accuracy": 0.9941,
        "cv/precision": 0.993,
        "study/complete": 4,
        "study/pruned": 16,
        "time/study_seconds": 212,
    }
    tags = {names.WINNING_SETTING: "dropout=0.30000000000000004, learning_rate=1.0901639e-05, width=200"}
    result = answered(question("score", "net"), scored("net", [0.95], metrics=more, tags=tags))
    assert result.sentences[0] == (
        "Net: the best of 20 trials reached 99.41 % (1 seed) accuracy and 99.30 % (1 seed) macro precision in "
        "cross-validation; the search took 212 s (1 seed). Winning settings: seed 0: dropout=0.3, learning_rate=1.09e-05, width=200."
    )


def test_comparison_reports_both_answers_and_interval() -> None:
    result = answered(question("compare", "a", reference="b"), scored("a", UNCLEAR), scored("b", SCRATCH))
    assert result.headline == (
        "Test accuracy: a 91.67 %, b 91.00 %: +0.67 pp (95 % CI -5.58 to +6.92): preliminary (n = 3): sign open; size "
        "open (margin 0.1 pp)."
    )
    assert [chart.name[-8:] for chart in result.charts] == ["1_1_loss", "accuracy", "_seconds"]


def test_several_arms_are_grouped_by_verdict() -> None:
    query = question("compare", "better", "worse", "unclear", "single", reference="scratch")
    result = answered(
        query,
        scored("scratch", SCRATCH),
        scored("better", AHEAD),
        scored("worse", (0.85, 0.871, 0.86)),
        scored("unclear", UNCLEAR),
        scored("single", [0.99], first=2),
    )
    assert result.headline == (
        "Test accuracy vs. scratch: preliminary (n = 3): sign open; size open: better (+2.00 pp), unclear (+0.67 pp); "
        "preliminary (n = 3): worse; size open: worse (-4.97 pp); no verdict (n = 1; at least 3 needed): single (+8.00 pp)."
    )
    assert "Single and scratch are paired on their shared seed: 2." in result.notes


def test_negative_transfer_is_reported() -> None:
    query = question("compare", "transfer", reference="scratch")
    result = answered(query, scored("transfer", EIGHT), scored("scratch", shifted(EIGHT, 0.02)))
    assert ": worse; size open (margin 0.1 pp), n = 8." in result.headline


def test_convergence_compares_epochs_and_seconds_to_98_percent() -> None:
    slow = [member("slow", seed, 0.99, accuracies=[0.5, 0.9, 0.96, 0.985], seconds=4.0) for seed in range(3)]
    fast = [member("fast", seed, 0.99, accuracies=[0.97, 0.985, 0.985, 0.985], seconds=12.0) for seed in range(3)]
    query = question("convergence", "fast", reference="slow")
    result = answered(query, arm_of("slow", slow), arm_of("fast", fast))
    assert (
        result.headline
        == "Epochs to 98 % validation accuracy: fast 2.0 epochs, slow 4.0 epochs: ratio 0.50 (95 % CI 0.50 to 0.50): "
        "preliminary (n = 3): sign open; size open (margin 10 %)."
    )
    assert [sentence[:73] for sentence in result.sentences] == [
        "Training time to 98 % validation accuracy: fast 6.00 s, slow 4.00 s: 1.50",
        "Test accuracy: fast 99.00 %, slow 99.00 %: +0.00 pp (95 % CI +0.00 to +0.",
    ]
    assert texts(result.table)[0][2:6] == ["3.0 +- 0.0", "4.0 +- 0.0", "never", "4.00 +- 0.00"]


def test_convergence_falls_back_to_95_percent() -> None:
    slow = [member("slow", seed, 0.96, accuracies=[0.5, 0.9, 0.96, 0.96]) for seed in range(2)]
    fast = [member("fast", seed, 0.99, accuracies=[0.97, 0.985, 0.985, 0.985]) for seed in range(2)]
    result = answered(question("convergence", "fast", reference="slow"), arm_of("slow", slow), arm_of("fast", fast))
    assert (
        result.headline
        == "Epochs to 95 % validation accuracy: fast 1.0 epochs, slow 3.0 epochs: ratio 0.33 (95 % CI 0.33 to 0.33): no "
        "verdict (n = 2; at least 3 needed)."
    )


def test_overfitting_is_the_train_test_gap() -> None:
    plain = [member("plain", seed, value, train=value + 0.02) for seed, value in enumerate(SCRATCH)]
    dropped = [member("dropped", seed, value, train=value + 0.005) for seed, value in enumerate(SCRATCH)]
    query = question("overfitting", "dropped", reference="plain")
    result = answered(query, arm_of("plain", plain), arm_of("dropped", dropped))
    assert result.headline == (
        "Training - test accuracy: plain 2.00 +- 0.00 pp; dropped 0.50 +- 0.00 pp. Gap: dropped 0.50 pp, plain 2.00 pp: "
        "-1.50 pp (95 % CI -1.50 to -1.50): preliminary (n = 3): sign open; size open (margin 0.1 pp)."
    )
    assert result.sentences[0].startswith("Test accuracy: dropped 91.00 %, plain 91.00 %: +0.00 pp")
    alone = answered(question("overfitting", "plain"), arm_of("plain", plain))
    assert alone.headline == "Training - test accuracy: plain 2.00 +- 0.00 pp."
    assert alone.table is not None and alone.verdicts is not None and not alone.verdicts.rows


CACHED = {names.FEATURES_SECONDS: 0.5, names.FEATURES_SAVED_SECONDS: 0.1, names.BREAK_EVEN_EPOCHS: 5.0}


def test_caching_compares_equal_numbers_of_epochs() -> None:
    slow = [member("slow", seed, 0.9, seconds=8.0, epochs=8) for seed in range(3)]
    cached = [member("cached", seed, 0.9, seconds=2.0, epochs=4, metrics=CACHED) for seed in range(3)]
    result = answered(question("caching", "cached", reference="slow"), arm_of("slow", slow), arm_of("cached", cached))
    assert result.headline == (
        "Time per epoch: cached 500 ms, slow 1000 ms: 2.00x faster (95 % CI 2.00 to 2.00): preliminary (n = 3): sign open; "
        "size open (margin 10 %)."
    )
    assert result.sentences[0] == "Timed over as many epochs of an arm as of its reference, at least 4."
    assert result.sentences[1].startswith("Training time: cached 2.00 s, slow 8.00 s: 4.00x faster")
    assert result.sentences[2].startswith("Including feature extraction: cached 2.50 s, slow 8.00 s: 3.20x faster")
    assert result.sentences[3:] == (
        "Cached: feature extraction took 0.500 +- 0.000 s and saves 0.100 +- 0.000 s per epoch. Break-even after 5.0 +- "
        "0.0 epochs: not reached within one run (4.0 +- 0.0 epochs).",
        "Cached and slow have identical test accuracy for every seed.",
    )


@pytest.mark.parametrize(
    ("host", "device", "places"), [("elsewhere", "cpu", "bench, elsewhere"), ("bench", "cuda", "bench, bench (cuda)")]
)
def test_times_across_hosts_or_devices_are_not_compared(host: str, device: str, places: str) -> None:
    here = [member("slow", seed, 0.9, seconds=8.0) for seed in range(2)]
    elsewhere = {"host": host, "params": {"device": device}}
    there = [member("cached", seed, 0.9, seconds=1.0, reused=True, **elsewhere) for seed in range(2)]  # type: ignore[arg-type]
    note = f"Times are not compared: cached runs come from more than one host or device ({places})."
    kinds = ("caching", "time", "compare", "convergence")
    for kind in kinds:
        result = answered(question(kind, "cached", reference="slow"), arm_of("slow", here), arm_of("cached", there))
        text = " ".join((result.headline, *result.sentences))
        assert note in result.notes and "x faster" not in text and "Training time to" not in text
        assert not any("time" in chart.alt.lower() for chart in result.charts)
    assert "compared" in answered(question("time", "cached", reference="slow"), arm_of("slow", here), arm_of("cached", there)).headline  # fmt: skip


def test_cached_runs_are_marked() -> None:
    runs = [member("net", 0, 0.9), member("net", 1, 0.91, reused=True)]
    result = answered(question("score", "net"), arm_of("net", runs))
    assert texts(result.table)[0][1] == "0 1\u2020"
    assert "\u2020 Cached: not run again; its times are those of the original run." in result.notes


def test_time_difference_is_broken_down() -> None:
    long = [member("long", seed, 0.9, seconds=12.0, epochs=6) for seed in range(3)]
    cost = {names.EPOCH_OPERATIONS: 5e8, names.TRAINABLE_SHARE: 0.25}
    short = [member("short", seed, 0.9, seconds=3.0, epochs=2, metrics=cost) for seed in range(3)]
    result = answered(question("time", "short", reference="long"), arm_of("long", long), arm_of("short", short))
    assert result.headline.startswith("Training time: short 3.00 s, long 12.0 s: 4.00x faster (95 % CI 4.00 to 4.00)")
    assert result.sentences == (
        "Ratios short / long: epochs ratio 0.33 (95 % CI 0.33 to 0.33); time per epoch ratio 0.75 (95 % CI 0.75 to 0.75); "
        "MACs per epoch ratio 0.50 (95 % CI 0.50 to 0.50).",
        "Training time is epochs x time per epoch: 0.33 x 0.75 = 0.25. Short takes less time because it needs fewer epochs "
        "(0.33x), and an epoch takes less time (0.75x).",
        "Short trains 25.0 % of its parameters, long 100.0 %; frozen blocks need no gradients.",
    )


def test_labels_question_compares_differences_across_label_counts() -> None:
    arms = [
        scored("tuned 20", (0.95, 0.96, 0.955), params={"per_class": "20"}),
        scored("fresh 20", (0.90, 0.91, 0.906), params={"per_class": "20"}),
        scored("tuned all", (0.99, 0.991, 0.992), params={"per_class": "all"}),
        scored("fresh all", (0.99, 0.992, 0.991), params={"per_class": "all"}),
    ]
    pairs = (("tuned all", "fresh all"), ("tuned 20", "fresh 20"), ("tuned 100", "fresh 100"))
    result = answered(question("labels", labelled=pairs), *arms)
    assert result.headline == (
        "20 labels per class: +4.97 pp (95 % CI +4.82 to +5.11): preliminary (n = 3): better; size open (margin 1 pp); all "
        "labels: +0.00 pp (95 % CI -0.25 to +0.25): preliminary (n = 3): sign open; size open (margin 0.1 pp)."
    )
    assert result.sentences == ()
    assert 'Arm "tuned 100" is missing: not run.' in result.notes


def surface_arm(
    name: str, reuse: int, unfreeze: int, values: tuple[float, ...], seconds: float, test: tuple[float, ...] = ()
) -> ReportedArm:
    params = {"reuse_layers": str(reuse), "unfreeze": str(unfreeze), "per_class": "100"}
    runs = [
        member(name, seed, test[seed] if test else 0.5, validation=value, seconds=seconds, params=params)
        for seed, value in enumerate(values)
    ]
    return arm_of(name, runs)


def test_cell_chosen_on_three_seeds_is_confirmed_on_others() -> None:
    lucky = (0.99, 0.99, 0.99)
    arms = [
        surface_arm("scratch", 0, 0, (0.9,) * 11, 9.0, test=lucky + EIGHT),
        surface_arm("chosen", 5, 5, (0.96,) * 11, 8.0, test=lucky + shifted(EIGHT, 0.02)),
        surface_arm("near", 5, 3, (0.955, 0.955, 0.962), 3.0),
    ]
    result = answered(question("surface", *(arm.name for arm in arms)), *arms)
    assert re.fullmatch(
        r"100 labels per class: reuse_layers=5, unfreeze=5, vs\. scratch on fresh seeds \+2\.00 pp \(95 % CI .*\): better; "
        r"size open \(margin 0\.5 pp\), n = 8\.",
        result.headline,
    )
    assert [row[3] for row in texts(result.table)] == ["scratch", "chosen"]
    assert [chart.name[-9:] for chart in result.charts] == ["1_map_100", "front_100"]
    assert "5 reused, 5 unfrozen [" in result.charts[0].alt
    assert arms_to_confirm(plan_run(arms, question("surface", *(arm.name for arm in arms)))) == {"scratch", "chosen"}


def test_cell_chosen_on_fewer_seeds_is_not_confirmed() -> None:
    arms = [surface_arm("scratch", 0, 0, (0.90, 0.91), 1.0), surface_arm("best", 5, 5, (0.95, 0.96), 8.0)]
    query = question("surface", "scratch", "best")
    assert answered(query, *arms).headline == (
        "100 labels per class: reuse_layers=5, unfreeze=5 (chosen on validation, not confirmed)."
    )
    assert arms_to_confirm(plan_run(arms, query)) == set()


def curve(name: str, reuse: str, by_labels: dict[str, float], seeds: int = 5) -> list[ReportedArm]:
    jitter = (0.0, 0.002, -0.002, 0.001, -0.001)
    return [
        scored(
            f"{name} {count}", [value + by for by in jitter[:seeds]], params={"per_class": count, "reuse_layers": reuse}
        )
        for count, value in by_labels.items()
    ]


def test_labels_question_says_what_reuse_is_worth() -> None:
    arms = curve("two", "2", {"10": 0.80, "100": 0.90, "1000": 0.945})
    arms += curve("scratch", "0", {"10": 0.70, "100": 0.85, "1000": 0.95})
    pairs = tuple((f"two {count}", f"scratch {count}") for count in (10, 100, 1000))
    result = answered(question("labels", labelled=pairs), *arms)
    assert re.fullmatch(
        r"Two 10: 10 labels per class are worth 46 labels per class \(95 % CI 4\d to 4\d\) from scratch; 100 labels per class are "
        r"worth 316 labels per class \(95 % CI \d+ to \d+\) from scratch \(n = 5, measured up to 1000\)\.",
        result.headline,
    )
    assert result.sentences[0].startswith("Crossover: reuse stops paying at 811 labels per class (95 % CI")
    assert result.sentences[1].startswith("10 labels per class: +10.00 pp")
    assert result.charts[0].name.endswith("worth") and "10: 46 labels per class" in result.charts[0].alt
    assert [row[-1] for row in texts(result.table)] == ["+0.00", "+0.00", "-"]


def test_pareto_front_holds_non_dominated_points() -> None:
    points = [(1.0, 70.0, "a"), (2.0, 65.0, "b"), (3.0, 90.0, "c"), (1.0, 60.0, "d"), (4.0, 90.0, "e")]
    assert [name for _, _, name in pareto_front(points)] == ["a", "c"]


# missing arms and seeds


def test_missing_arms_are_listed_on_top_and_per_question() -> None:
    lost = arm_of("lost", [], (0, "NonFiniteLossError: nan"), (1, "NonFiniteLossError: nan"), label="the lost one")
    partly = scored("partly", (0.92, 0.94), (2, "killed"))
    facts = plan_run(
        [scored("scratch", SCRATCH), partly, lost],
        question("compare", "partly", "lost", reference="scratch"),
        question("score", "lost", key="1.2"),
        question("compare", "partly", reference="lost", key="1.3"),
    )
    first, second, third = (answer(facts, query) for query in facts.questions)
    assert first.headline == (
        "Test accuracy: partly 93.00 %, scratch 91.00 %: +2.00 pp (95 % CI +2.00 to +2.00): no verdict (n = 2; at least 3 "
        "needed)."
    )
    assert first.notes[:3] == (
        'Arm "partly" is missing seed 2: killed.',
        'Arm "the lost one" is missing: NonFiniteLossError: nan.',
        "Partly and scratch are paired on their shared seeds: 0 and 1.",
    )
    assert second.headline == "Not answered: none of its arms finished." and second.table is None
    assert third.headline.startswith("Not compared: its reference did not finish. partly: test accuracy 93.00")
    page = render("study.html", facts, [first, second, third], date="today")
    top = page[: page.index(">Summary<")]
    for line in ("is missing seed 2: killed.", "is missing: NonFiniteLossError: nan."):
        assert line in top


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_kind_handles_one_seed_and_no_runs(kind: str) -> None:
    params = {"reuse_layers": "5", "unfreeze": "0", "per_class": "100"}
    arms = [scored("a", [0.9], params=params), scored("b", [0.8], params={**params, "reuse_layers": "0"})]
    query = question(kind, *(() if kind == "labels" else ("a", "b")), reference="b" if kind != "surface" else "",
                     labelled=(("a", "b"),) if kind == "labels" else ())  # fmt: skip
    result = answered(query, *arms)
    text = " ".join((result.headline, *result.sentences))
    if query.comparisons:
        assert "no verdict (n = 1; at least 3 needed)" in text
    assert not re.search(r"better|worse|within", text), text
    empty = answer(plan_run([], query), query)
    assert empty.headline == "Not answered: none of its arms finished."


def test_unknown_question_kind_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"question 1.1: kind must be one of score, compare, .* got 'guess'"):
        answered(question("guess", "a"), scored("a", [0.9]))


# report files


def write_files(facts: PlanRunFacts, folder: Path) -> tuple[str, str]:
    paths = write_report(facts, folder)
    assert [path.name for path in paths[:3]] == ["study.html", "study.md", "study-short.html"]
    assert "study.csv" in {path.name for path in paths}
    assert all(path.stat().st_size for path in paths) and len(paths) == len(set(paths))
    return paths[0].read_text(), paths[1].read_text()


def test_numbers_link_to_runs_on_a_tracking_server(tmp_path: Path) -> None:
    arms = [scored("a", AHEAD), scored("b", SCRATCH)]
    facts = plan_run(arms, question("compare", "a", reference="b"), links=Links("http://host:5000/", "7"))
    page, text = write_files(facts, tmp_path)
    for seed in range(3):
        href = f"http://host:5000/#/experiments/7/runs/{run_id_of('a', seed)}"
        assert f'<a href="{href}">{seed}</a>' in page and f"[{seed}]({href})" in text
    assert "http://host:5000/#/compare-runs?runs=" in page
    unnamed, _ = write_files(plan_run(arms, *facts.questions, links=Links("sqlite:///mlflow.db", "")), tmp_path)
    assert "/experiments/" not in unnamed and "sqlite:" not in unnamed


def test_arm_names_are_escaped(tmp_path: Path) -> None:
    arm = scored("a", AHEAD)
    evil = ReportedArm("a", "<script>alert(1)</script> | *x*", "transfer", arm.members, ((9, "<img src=x>"),))
    page, text = write_files(plan_run([evil], question("score", "a", text="<b>Which?")), tmp_path)
    assert "<script" not in page and "<img src=x" not in page and "<b>" not in page
    assert "\\<script>alert(1)\\</script> \\| \\*x\\*" in text


def test_csv_has_one_row_per_run_with_every_metric(tmp_path: Path) -> None:
    facts = plan_run([scored("a", AHEAD), scored("b", [0.5], metrics={"cv/accuracy": 0.4}, reused=True)])
    write_files(facts, tmp_path)
    with (tmp_path / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["run_id"], row["reused"]) for row in rows] == [
        ("a", "0", "a-0", "False"), ("a", "1", "a-1", "False"), ("a", "2", "a-2", "False"), ("b", "0", "b-0", "True"),
    ]  # fmt: skip
    assert float(rows[1][names.TEST_ACCURACY]) == 0.94 and rows[0]["cv/accuracy"] == ""
    assert {name for one in facts.arms["b"].members for name in one.run.metrics} <= rows[0].keys()


def test_methods_list_budgets_differences_versions_and_times(tmp_path: Path) -> None:
    arms = [
        scored("a", AHEAD, params={"dropout": "0.2"}, tags={names.BASE_RUN_ID: run_id_of("b", 0)}),
        scored(
            "b",
            SCRATCH,
            params={"dropout": "0.0", "learning_rate": "0.01"},
            stage="train_base",
            reused=True,
            seconds=13.5,
        ),
    ]
    arms[0] = replace(arms[0], seconds=60.0)
    facts = plan_run(arms, question("compare", "a", reference="b"), total_seconds=61.5)
    _, text = write_files(facts, tmp_path)
    for line in (
        "| 1.1 | dropout | b: 0.0; a: 0.2 |",
        "| 1.1 | learning\\_rate | b: 0.01; a: 0.001 |",
        "| 1.1 | base | b: -; a: b |",
        "| 400 | 100 | 20 | 0.01 | 0.005 | b |",
        "| a | 3 | 60.0 | 0.0 |",
        "| b | 3 | 0.0 | 40.5 |",
        "| startup and loading the plan | 0 | 1.5 | 0.0 |",
        "| sum | 6 | 61.5 | 40.5 |",
        "| a | 1 | 94.00 | EPYC, 2 cores | a-1 |",
        "| mnist 5-9 | training | all | d1ge57 (0, 1, 2) |",
        "git commits (runs): c0ffee (6).",
        "Runs by host: bench (6).",
        "Runs by hardware: EPYC, 2 cores (6).",
    ):
        assert line in text, line
    assert re.search(r"Versions: Python 3\.\d+\.\d+, torch 2\.", text)
    assert "The arms differ in dropout, learning\\_rate, stage (train\\_base, transfer)." in text
    assert "A starts from b; its time does not include b's." in text
    fresh = scored("a", AHEAD, params={"reuse_layers": "0"}, tags={names.BASE_RUN_ID: run_id_of("b", 0)})
    assert not any("starts from" in note for note in answered(facts.questions[0], fresh, arms[1]).notes)


@pytest.mark.parametrize("facts", [surface_plan_run(), pytest.param(reference_plan_run(), marks=pytest.mark.slow)])
def test_full_report_is_complete_and_small(facts: PlanRunFacts, tmp_path: Path) -> None:
    page, text = write_files(facts, tmp_path)
    assert len(page) < 3_000_000
    assert page.count("<article id=") == len(facts.questions)
    assert page.count("data:image/png") == text.count("](figures/") == len(list((tmp_path / "figures").iterdir()))
    assert all(alt.strip() for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page))
    assert not re.search(r'(src|href)="(?!data:|#|http://127.0.0.1:5000/#/)', page)


def test_markdown_contains_the_same_answers() -> None:
    facts = plan_run([scored("a", AHEAD), scored("b", SCRATCH)], question("compare", "a", reference="b"))
    answers = [answer(facts, query) for query in facts.questions]
    text = render("study.md", facts, answers, date="today")
    assert "**Test accuracy: a 93.00 %, b 91.00 %: +2.00 pp (95 % CI +2.00 to +2.00): preliminary (n = 3):" in text
    assert "| b | 0 1 2 | 91.00 +- 2.48 | 91.00 +- 2.48 | 2.00 +- 0.00 |" in text


def with_predictions(member: Member, wrong: set[int]) -> Member:
    """A run that predicts class 1 for 100 images, all of class 1, except for some, for which it predicts 0."""
    predicted = np.array([0 if image in wrong else 1 for image in range(100)])
    identities = np.array([f"{image:016x}" for image in range(100)])
    return replace(member, read_predictions=lambda: ImagePredictions(identities, np.ones(100, np.int64), predicted))


def test_image_sampling_error_is_paired_by_image() -> None:
    wrong = {"a": [{1, 2}, {1, 3}, {1, 4}], "b": [{1, 2, 7}, {1, 3, 8}, {1, 4, 9}]}
    arms = [scored("a", AHEAD), scored("b", SCRATCH)]
    arms = [replace(arm, members=tuple(map(with_predictions, arm.members, wrong[arm.name]))) for arm in arms]
    facts = plan_run(arms, question("compare", "a", reference="b"))
    expected = 100 * np.std([1 / 3] * 3 + [0] * 97, ddof=1) / 10  # images 7, 8, 9 differ in one of three seeds each
    assert judge_question(facts, facts.questions[0])[0].row()[-1] == f"{expected:.2f} pp"


def test_image_sampling_error_without_predictions_is_a_bound() -> None:
    arms = [
        scored(name, values, metrics={names.TEST_IMAGES: 2500.0}) for name, values in (("a", AHEAD), ("b", SCRATCH))
    ]
    facts = plan_run(arms, question("compare", "a", reference="b"))  # 93 and 91 %
    assert judge_question(facts, facts.questions[0])[0].row()[-1] == "at most 0.77 pp"


@pytest.mark.slow
def test_report_of_real_runs_contains_their_numbers(store: MlflowClient, tmp_path: Path, no_figures: None) -> None:
    quick = {"dataset": "digits", "epochs": 3, "threads": 1}
    arms: dict[str, list[Member]] = {"five": [], "cached": [], "scratch": []}
    for seed in (0, 1):
        base = train_base(TrainBaseParams(**quick, seed=seed))
        common = {**quick, "seed": seed, "base": base.model_uri, "per_class": 20}
        for name, more in (("five", {}), ("cached", {"features": "auto"}), ("scratch", {"reuse_layers": 0})):
            run_id = transfer(TransferParams(**common, **more)).run_id
            arms[name].append(Member(seed, read_trained_run(store, run_id), reused=False))
    facts = plan_run(
        [arm_of(name, members) for name, members in arms.items()],
        question("score", "five", text="What precision?"),
        question("caching", "cached", reference="five", key="2.2"),
        question("compare", "five", reference="scratch", key="2.5"),
        question("time", "cached", reference="five", key="3"),
        question("surface", "five", "scratch", key="4"),
    )
    _, text = write_files(facts, tmp_path / "report")
    means = {name: 50 * sum(m.run.metrics[names.TEST_ACCURACY] for m in members) for name, members in arms.items()}
    assert f"Five: test accuracy {means['five']:.2f} +- " in text
    assert "Time per epoch: cached" in text and "Break-even after" in text
    assert "Cached and five have identical test accuracy for every seed." in text
    assert re.search(r"\| 2\.5 \| reuse\\_layers \| scratch: 0; five: 5 \|", text)
    assert all(m.run.run_id in (tmp_path / "report" / "study.csv").read_text() for ms in arms.values() for m in ms)


# the HTML page in a browser

HIDE_ALL_BUT = """number => {
  const sections = [...document.querySelectorAll('section.chapter')];
  for (const other of document.querySelectorAll('header, section')) other.style.display = 'none';
  sections[number].style.display = '';
}"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("facts", [reference_plan_run(), surface_plan_run()], ids=["assignments", "surface"])
def test_page_opens_from_disk_fits_phones_and_prints(facts: PlanRunFacts, tmp_path: Path) -> None:
    write_files(facts, tmp_path)
    studies = len({query.study for query in facts.questions})
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 375, "height": 740})
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.goto((tmp_path / "study.html").as_uri())
        assert not messages and all(url.startswith(("file:", "data:")) for url in urls) and urls
        images = page.evaluate("[...document.images].map(one => [one.alt, one.complete && one.naturalWidth > 0])")
        assert images and all(alt and loaded for alt, loaded in images)
        for width in (320, 375, 768, 1200):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.goto((tmp_path / "study-short.html").as_uri())
        assert 1 <= pages_of(page.pdf(format="A4", prefer_css_page_size=True)) <= 2
        page.goto((tmp_path / "study.html").as_uri())
        for number in range(studies):
            page.reload()
            page.evaluate(HIDE_ALL_BUT, number)
            assert 1 <= pages_of(page.pdf(format="A4", prefer_css_page_size=True)) <= 3


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable_on_phone_and_desktop(scheme: Literal["light", "dark"], width: int, tmp_path: Path) -> None:
    facts = reference_plan_run()
    claim = Claim("Fine-tuning beats training from scratch.", "better", "A book")
    (asked, *_) = (query for query in facts.questions if query.comparisons == 1)
    record = replace(facts.record, questions=(*facts.questions, replace(asked, key="9", claim=claim)))
    write_files(replace(facts, record=record), tmp_path)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        for name in ("study.html", "study-short.html", "claim-1.html"):
            page.goto((tmp_path / name).as_uri())
            assert page_problems(page) == [], name
        assert all(url.startswith(("file:", "data:")) for url in urls)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<h1>x</h1><p style='color: #888'>pale", "contrast 3.54: pale"),
        ("<h1>x</h1><div style='width: 2000px'>wide", "2008 pixels wide in a window of 390"),
        ("<h1>x</h1><img src='data:,'>", "1 images without a text alternative"),
        ("<h1>x</h1><h3>y</h3>", "h1 is followed by h3"),
    ],
)
def test_page_checks_notice_each_problem(body: str, problem: str) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.set_content(f"<!doctype html><html lang=en><body style='background: #fff; margin: 8px'>{body}")
        assert page_problems(page) == [problem]


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


# settings that validation chose


def test_chosen_settings_are_counted() -> None:
    rates, edges = (0.001, 0.003, 0.003), (0, 1, 1)
    tuned = arm_of("tuned", [
        member("tuned", seed, 0.9, seconds=2, metrics={
            "tuned/learning_rate": rate, names.TUNED_AT_EDGE: edge, names.TRIES: 6, names.TRIES_SECONDS: 12,
        })
        for seed, (rate, edge) in enumerate(zip(rates, edges, strict=True))
    ])  # fmt: skip
    head = {names.HEAD_L2: 0.01, names.HEAD_L2_AT_EDGE: 0}
    solved = arm_of("solved", [member("solved", seed, 0.9, metrics=head) for seed in range(2)])
    table = chosen_settings(plan_run([tuned, solved, scored("fixed", AHEAD)]))
    assert texts(table) == [
        [
            "tuned",
            "6",
            "learning rate 0.003 (2); learning rate 0.001 (1)",
            "2 of 3 runs",
            "2.00 +- 0.00",
            "12.0 +- 0.0",
        ],
        ["solved", "solved", "L2 0.01 (2)", "0 of 2 runs", "2.00 +- 0.00", "-"],
    ]


# arms that did not converge


CAPPED = {names.CONVERGED: "no: stopped by the epoch cap"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("labels", "surface")])
def test_arm_stopped_by_epoch_cap_is_marked(kind: str) -> None:
    few = arm_of("few", [member("few", seed, value, tags=CAPPED) for seed, value in enumerate(SCRATCH)])
    found = answered(question(kind, "few", reference="done"), few, scored("done", AHEAD))
    names_shown = {row[0] for row in texts(found.table)}
    assert names_shown == {"done", "few\u2021"}
    assert any("few\u2021" in picture.alt for picture in found.charts)
    assert [note for note in found.notes if note.startswith("\u2021")] == [
        "\u2021 Not converged: few (3 of 3 runs stopped by the epoch cap). Trained to convergence, their "
        "accuracy and training time may change."
    ]


def test_epoch_cap_and_tolerance_are_distinguished() -> None:
    reasons = ("yes", "no: stopped by the epoch cap", "no: stopped above the gradient tolerance of 1e-06")
    runs = [member("mixed", seed, 0.9, tags={names.CONVERGED: reason}) for seed, reason in enumerate(reasons)]
    (note,) = answered(question("score", "mixed"), arm_of("mixed", runs)).notes
    assert "mixed (1 of 3 runs stopped by the epoch cap), " in note
    assert "mixed (1 of 3 runs stopped above the gradient tolerance of 1e-06)" in note


def test_converged_arms_are_not_marked() -> None:
    done = arm_of("done", [member("done", 0, 0.9, tags={names.CONVERGED: "yes"})])
    found = answered(question("score", "done", "old"), done, scored("old", AHEAD))
    assert [row[0] for row in texts(found.table)] == ["done", "old"]
    assert not any("\u2021" in text for text in (*found.notes, *(picture.alt for picture in found.charts)))


def test_label_and_surface_tables_mark_capped_arms() -> None:
    params = {"per_class": "10", "reuse_layers": "2", "unfreeze": "1"}
    few = arm_of("few", [member("few", seed, value, tags=CAPPED, params=params) for seed, value in enumerate(AHEAD)])
    fresh = scored("fresh", SCRATCH, params={**params, "reuse_layers": "0", "unfreeze": "0"})
    by_labels = answered(question("labels", labelled=(("few", "fresh"),)), few, fresh)
    assert "few\u2021" in texts(by_labels.table)[0]
    surface = answered(question("surface", "few", "fresh"), few, fresh)
    assert "few\u2021" in {row[0] for row in texts(surface.table)}
