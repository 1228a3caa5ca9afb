"""Which arm a report recommends, why, and the commands that it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.params import TrainBaseParams, TransferParams
from pipeline.report.loader import print_recommendation, write_report
from pipeline.report.recommendation import NO_RECOMMENDATION, Recommendation, recommend, repeat_command
from pipeline.report.records import Member, ReportedArm
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.queries import read_trained_run
from tests.synthetic_plan_run import plan_run, question, scored

EIGHT = tuple(0.9 + value / 1000 for value in (1, 4, 2, 6, 3, 5, 7, 2))


def arm(name: str, gain: float, validation: float, **more: object) -> ReportedArm:
    """An arm with eight seeds, better than `EIGHT` by about `gain` on test images."""
    values = [value + gain * (1 + 0.02 * (-1) ** seed) for seed, value in enumerate(EIGHT)]
    return scored(name, values, validation=validation, **more)


def recommended(*arms: ReportedArm, kind: str = "compare") -> Recommendation:
    query = question(kind, *(one.name for one in arms[1:]), reference=arms[0].name)
    (found,) = recommend(plan_run(arms, query))
    return found


def test_best_validated_of_the_better_arms_is_recommended() -> None:
    found = recommended(
        arm("scratch", 0, 0.99), arm("much", 0.03, 0.94), arm("some", 0.02, 0.95), arm("lucky", 0, 0.97)
    )
    assert found.arm.name == "some"
    assert found.reason.startswith("Some is better than scratch in test accuracy (+2.0")
    assert found.reason.endswith(
        "Of 2 better arms it is the best on validation (mean validation accuracy 95.00 %, 8 seeds)."
    )


def test_without_better_arm_the_best_not_worse_one_is_recommended() -> None:
    found = recommended(arm("scratch", 0, 0.94), arm("open", 0, 0.95), arm("worse", -0.02, 0.99))
    assert found.arm.name == "open"
    assert found.reason == (
        "No arm is shown to beat scratch in test accuracy; of the 2 arms that are not shown to be worse, this one is best on "
        "validation (mean validation accuracy 95.00 %, 8 seeds)."
    )


def test_reference_is_recommended_if_every_arm_is_worse() -> None:
    found = recommended(arm("scratch", 0, 0.94), arm("worse", -0.02, 0.99))
    assert (found.arm.name, found.reason[:38]) == ("scratch", "Every other arm is worse in test accur")


def test_model_is_the_one_with_best_validation_accuracy() -> None:
    fixed = arm("a", 0.02, 0.9)
    best = scored("a", [EIGHT[3] + 0.02], first=3, validation=0.93).members[0]
    members = tuple(best if member.seed == 3 else member for member in fixed.members)
    found = recommended(arm("scratch", 0, 0.9), ReportedArm("a", "a", "transfer", members))
    assert found.model is best
    assert found.lines[1].startswith("  model: models:/m-a-3 (seed 3: validation accuracy 93.00 %, test accuracy ")
    assert found.commands[:3] == [
        ("classify images", "python -m pipeline predict --model models:/m-a-3 --images PATH"),
        ("export its graph for a server", "python -m pipeline export --model models:/m-a-3"),
        ("serve it", "mlflow models serve -m models:/m-a-3 --env-manager local --port 5001"),
    ]
    assert [f"  {purpose}: {command}" for purpose, command in found.commands] == found.lines[2:]


def test_model_of_own_code_is_used_with_its_code() -> None:
    params = {"model": "own:my net.py:build"}
    found = recommended(arm("scratch", 0, 0.9, params=params), arm("a", 0.02, 0.9, params=params))
    assert found.commands[0][1].endswith("predict --model models:/m-a-0 --code 'own:my net.py:build' --images PATH")


def test_targets_come_before_bases_and_large_questions_before_small() -> None:
    bases = [scored(name, EIGHT, stage="train_base") for name in ("base", "one", "two", "three")]
    targets = [arm("scratch", 0, 0.9), arm("reuse", 0.02, 0.9)]
    facts = plan_run(
        [*bases, *targets],
        question("compare", "one", "two", "three", reference="base"),
        question("compare", "reuse", reference="scratch", key="2"),
    )
    assert [one.arm.name for one in recommend(facts)] == ["reuse"]
    assert [one.arm.name for one in recommend(plan_run(bases, facts.questions[0]))] == ["base"]


def test_largest_number_of_labels_decides() -> None:
    arms = [arm(f"{name} {count}", gain, 0.9, params={"per_class": count})
            for count, name, gain in (("10", "reuse", 0.05), ("10", "scratch", 0), ("100", "reuse", -0.05), ("100", "scratch", 0))]  # fmt: skip
    pairs = (("reuse 10", "scratch 10"), ("reuse 100", "scratch 100"))
    (found,) = recommend(plan_run(arms, question("labels", labelled=pairs)))
    assert found.arm.name == "scratch 100"


def test_arms_without_accuracy_comparison_get_no_recommendation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [arm("a", 0, 0.9), arm("b", 0, 0.9)]
    for kind in ("score", "time", "convergence"):
        facts = plan_run(arms, question(kind, "a", reference="" if kind == "score" else "b"))
        assert recommend(facts) == []
    write_report(facts, tmp_path)
    print_recommendation(tmp_path)
    assert capsys.readouterr().out.strip() == NO_RECOMMENDATION


def test_unconverged_recommendation_says_so() -> None:
    capped = {names.CONVERGED: "no: stopped by the epoch cap"}
    found = recommended(arm("scratch", 0, 0.9), arm("a", 0.02, 0.9, tags=capped))
    assert found.reason.endswith("Not converged: 8 of 8 runs stopped by the epoch cap.")


def test_printed_command_repeats_the_run_exactly(store: MlflowClient, no_figures: None) -> None:
    base = train_base(TrainBaseParams(dataset="digits", epochs=2, width=16, hidden_layers=2))
    first = transfer(TransferParams(base=base.model_uri, epochs=2, per_class=20, reuse_layers=1, unfreeze=1, seed=3))
    words = shlex.split(repeat_command(Member(3, read_trained_run(store, first.run_id), reused=False)))
    names_and_values = words[words.index("transfer") + 1 :]
    given = {
        name.removeprefix("--"): value
        for name, value in zip(names_and_values[::2], names_and_values[1::2], strict=True)
    }
    again = transfer(TransferParams(**given))
    keys = [store.get_run(one.run_id).data.tags[names.CACHE_KEY] for one in (first, again)]
    assert keys[0] == keys[1] and first.metrics[names.TEST_ACCURACY] == again.metrics[names.TEST_ACCURACY]
    assert "image_size" not in given and given["reuse_layers"] == "1"
    logged = json.loads(store.get_run(first.run_id).data.tags[names.PARAMETERS])
    assert given.items() <= logged.items()
