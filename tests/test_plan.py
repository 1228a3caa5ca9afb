"""Plans: validation, step order, caching of steps; small real plan runs on the bundled digits."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.data.classes import DIGITS, select_classes
from pipeline.errors import PlanIncompleteError, UserInputError
from pipeline.execution.records import Task
from pipeline.params import MainParams, ReportParams, TrainBaseParams, parse_params
from pipeline.params.grid import canonical_grid, grid_settings
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import PLANS, load_plan
from pipeline.plan.outcome import record_from_json
from pipeline.plan.records import default_margin, walk
from pipeline.stages.main import main
from pipeline.stages.plan_data import describe_arms
from pipeline.stages.report import report
from pipeline.tracking import cache_key as key_module
from pipeline.tracking import names
from pipeline.tracking.cache_key import CacheKey, cache_key

SMALL = """
title: Small
description: A small study.
profiles: {quick: {seeds: 2, params: {transfer: {epochs: 3, patience: 3}}}, full: {seeds: 3}}
common: {weight_averaging: 0.9}
arms:
  target:
    run: transfer
    base: base
    params: {classes: 5-7, per_class: 8, val_per_class: 4}
    grid: {reuse_layers: [0, 2]}
  base:
    run: train_base
    params: {classes: 0-2, epochs: 2, hidden_layers: 2, width: 8}
questions:
  - {key: "1", study: S, kind: compare, arms: [target], reference: "target[reuse_layers=0]", text: "Better?"}
"""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def plan_overrides(**more: object) -> PlanOverrides:
    return PlanOverrides(**{"profile": "quick", **more})  # type: ignore[arg-type]


def test_plan_order_is_by_seed_with_bases_first(plan: str) -> None:
    found = load_plan(plan, plan_overrides())
    assert list(found.arms) == ["base", "target[reuse_layers=0]", "target[reuse_layers=2]"]
    steps = [(step.arm.name, step.seed, step.base) for step in walk(found)]
    assert steps == [
        ("base", 0, None), ("target[reuse_layers=0]", 0, ("base", 0)), ("target[reuse_layers=2]", 0, ("base", 0)),
        ("base", 1, None), ("target[reuse_layers=0]", 1, ("base", 1)), ("target[reuse_layers=2]", 1, ("base", 1)),
    ]  # fmt: skip
    target = found.arms["target[reuse_layers=2]"]
    assert target.setting == {
        "weight_averaging": 0.9, "epochs": 3, "patience": 3, "classes": "5-7", "per_class": 8, "val_per_class": 4,
        "reuse_layers": 2,
    }  # fmt: skip
    assert found.questions[0].arms == ("target[reuse_layers=0]", "target[reuse_layers=2]")


def test_arms_of_time_questions_run_alone(plan: str) -> None:
    def exclusive() -> list[bool | None]:
        return [arm.exclusive for arm in load_plan(plan, plan_overrides()).arms.values()]

    assert exclusive() == [False, False, False]
    path = Path(plan)
    path.write_text(SMALL.replace("kind: compare", "kind: time"))
    assert exclusive() == [False, True, True]
    path.write_text(
        SMALL.replace("kind: compare", "kind: time").replace("    base: base", "    exclusive: false\n    base: base")
    )
    assert exclusive() == [False, False, False]


def test_command_line_overrides_plan(plan: str) -> None:
    found = load_plan(
        plan, plan_overrides(seeds=3, overrides={"dataset": "digits"}, base_classes="0-3", target_classes="7-9")
    )
    assert {arm.seeds for arm in found.arms.values()} == {3}
    assert {arm.setting["dataset"] for arm in found.arms.values()} == {"digits"}
    assert {arm.setting["classes"] for arm in found.arms.values()} == {"0-3", "7-9"}


def test_bundled_plans_are_valid() -> None:
    checked = 0
    for path in PLANS.glob("*.yaml"):
        for profile in ("quick", "full", *(["paper"] if "paper:" in path.read_text() else [])):
            found = load_plan(path.stem, plan_overrides(profile=profile))
            assert found.questions and all(question.text.endswith("?") for question in found.questions)
            checked += 1
    assert checked == 25


def test_settings_of_bundled_plans_reach_worker_processes() -> None:
    grids = 0
    for path in PLANS.glob("*.yaml"):
        for arm in load_plan(path.stem, plan_overrides(profile="full")).arms.values():
            task = Task(0, arm.kind.entry_point, dict(arm.setting))
            assert json.loads(json.dumps(asdict(task)))["raw_params"] == arm.setting
            grids += isinstance(arm.setting.get("tune_on_validation"), dict)
    assert grids > 10


def test_claims_of_bundled_plans_are_confirmatory() -> None:
    claims = [
        question
        for path in PLANS.glob("*.yaml")
        for question in load_plan(path.stem, plan_overrides(profile="full")).questions
        if question.claim
    ]
    assert len(claims) == 5 and all(question.confirmatory and question.margin for question in claims)


def test_extended_profile_inherits_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "extended.yaml"
    text = SMALL.replace("full: {seeds: 3}", "paper: {extends: quick, seeds: 7}")
    path.write_text(text.replace("    base: base\n", "    base: base\n    profiles: {quick: {params: {epochs: 5}}}\n"))
    quick, paper = (load_plan(str(path), plan_overrides(profile=profile)) for profile in ("quick", "paper"))
    assert (quick.seeds, paper.seeds) == (2, 7)
    for name, arm in quick.arms.items():
        assert arm.setting == paper.arms[name].setting
    assert quick.arms["target[reuse_layers=0]"].setting["epochs"] == 5


def test_reference_plan_tries_equal_numbers_of_settings() -> None:
    arms = load_plan("assignments", plan_overrides(profile="full")).arms.values()
    grids = [canonical_grid(arm.setting.get("tune_on_validation", "")) for arm in arms]
    tries = {arm.name: len(grid_settings(grid)) for arm, grid in zip(arms, grids, strict=True)}
    assert {name for name, count in tries.items() if count == 1} == {"tuned", "five_sgd", "five_sgd_cached", "cnn"}
    assert {count for count in tries.values() if count > 1} == {6}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("run: transfer", "run: transfr", r"line 8, run: run=transfr is not an entry point.*Did you mean transfer\?"),
        ("run: transfer\n", "label: x\n", "line 7, target: run=\\(nothing\\) is not an entry point"),
        ("per_class: 8", "per_clas: 8", r"line 10, per_clas: per_clas=8: unknown parameter.*per_class"),
        ("per_class: 8", "per_class: -8", "line 10, per_class: per_class=-8: must be"),
        ("base: base", "base: bas", r"line 9, base: bas is not an arm of this plan.*Did you mean base\?"),
        ("    base: base\n", "", "line 7, target: needs base"),
        ("base: base", "base: 'target[reuse_layers=2]'", "line 9, base: cycle of bases: target.* -> target"),
        ("  base:\n    run", "  target:\n    run", "duplicate key: target"),
        ("grid: {reuse_layers: [0, 2]}", "grid: {reuse_layers: [0, 0]}", "line 11, grid: has a duplicate combination"),
        ("grid: {reuse_layers: [0, 2]}", "grid: [1]", "line 11, grid: must give lists"),
        ("grid: {reuse_layers: [0, 2]}", f"grid: {{seed: {list(range(50))}, epochs: {list(range(1, 50))}}}", "more than 1000 arms"),
        ("kind: compare", "kind: compete", r"kind: compete must be one of.*Did you mean compare\?"),
        ("arms: [target]", "arms: [tarket]", r"arms: tarket is not an arm of this plan.*Did you mean target"),
        ("seeds: 2", "seeds: two", "line 4, seeds: must be an integer in \\[1, 1000\\]"),
        ("title: Small", "titel: Small", r"line 2, titel: is not a key of a plan.*Did you mean title\?"),
        ("quick: {seeds: 2", "quick: {extends: fast, seeds: 2", "line 4, extends: fast is not a profile that can be extended"),
        ("epochs: 2", "seed: 2", "line 14, seed: seed is not a parameter of an arm"),
        ("classes: 0-2", "classes: 0-2, refit: false", "refit=.*unknown parameter"),
        ("kind: compare", "kind: compare, margin: 0", r"line 16, margin: must be a number of percentage points in \(0, 100\), got 0"),
        ("kind: compare", "kind: time, margin: wide", "margin: must be a number of percent in .*got wide"),
        ("kind: compare", "kind: score, margin: 1", "margin: is not allowed"),
        ("kind: compare", "kind: compare, confirmatory: 1", "line 16, confirmatory: must be true or false, got 1"),
        ("kind: compare", "kind: score, confirmatory: true", "confirmatory: needs a question that compares"),
        ("kind: compare", "kind: score, claim: {statement: S, expects: better, source: B}", "claim: needs a question with one"),
        ("kind: compare", "kind: compare, claim: yes", "claim: must be a mapping"),
        ("kind: compare", "kind: compare, claim: {statement: S, source: B}", "claim: lacks expects"),
        ("kind: compare", "kind: compare, claim: {statement: S, expects: bettr, source: B}",
         r"expects: must be one of better, not worse, within margin, got bettr.*Did you mean better\?"),
        ("kind: compare", "kind: labels, labelled: [[target, base]]", "labelled: target and base need the same numbers"),
    ],
)  # fmt: skip
def test_invalid_plan_error_gives_line_and_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in SMALL
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(UserInputError, match=expected):
        load_plan(str(path), plan_overrides())


def test_all_plan_errors_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        SMALL.replace("per_class: 8", "per_clas: 8").replace("kind: compare", "kind: x").replace("title", "t")
    )
    with pytest.raises(UserInputError) as caught:
        load_plan(str(path), plan_overrides(profile="quik"))
    assert len(caught.value.faults) >= 4
    assert "Did you mean quick?" in str(caught.value)


def test_base_with_fewer_seeds_than_its_dependents_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace("  base:\n    run", "  base:\n    seeds: 1\n    run"))
    with pytest.raises(UserInputError, match="base has 1 seeds, .* 2: seed s builds on base s"):
        load_plan(str(path), plan_overrides())


def test_unknown_plan_error_lists_available_plans() -> None:
    with pytest.raises(UserInputError, match=r"cannot be read.*Did you mean surface\?"):
        load_plan("surfce", plan_overrides())
    with pytest.raises(UserInputError, match="one of assignments, .*surface"):
        load_plan("/nowhere/x.yaml", plan_overrides())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=300)
    | st.builds(lambda a, b: SMALL[:a] + b + SMALL[a:], st.integers(0, len(SMALL)), st.text(max_size=8))
)
@example(text=SMALL)
@example(text=SMALL.replace("seeds: 2", "seeds: two"))
def test_any_text_is_a_runnable_plan_or_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        steps = walk(load_plan(str(path), plan_overrides()))
    except UserInputError as error:
        assert text != SMALL and all("any.yaml" in str(fault) for fault in error.faults)
    else:
        assert steps and "seeds: two" not in text
        for step in steps:
            parse_params(step.arm.kind, step.raw_params("a" * 32 if step.base else ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON: EOF"),
        ("{}", "name: Field required"),
        ("[]", "Input should be an object"),
        ('{"name": 1}', "name: Input should be a valid string"),
        ("\x00", "Invalid JSON: expected value"),
        ('{"name": "x", "title": "x", "description": "x", "profile": "x", "seeds": "two"}', "seeds: Input should be"),
    ],
)
def test_damaged_plan_record_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_from_json(text)


def small(plan: str, **more: object) -> MainParams:
    return MainParams(plan=plan, dataset="digits", threads=1, **{"workers": 1, **more})  # type: ignore[arg-type]


def children(store: MlflowClient, run_id: str) -> list[str]:
    return [run.info.run_id for run in store.search_runs(["0"], f"tags.`{names.PARENT_RUN_ID}` = '{run_id}'")]


def test_second_plan_run_is_fully_cached(
    store: MlflowClient,
    plan: str,
    no_figures: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = main(small(plan, seeds=1))
    assert store.get_run(first.run_id).data.tags[names.PLAN] == Path(plan).stem
    arms = [store.get_run(run_id).data.tags[names.ARM] for run_id in children(store, first.run_id)]
    assert sorted(arms) == sorted(load_plan(plan, PlanOverrides("quick")).arms)
    assert first.metrics == {"study/run": 3, "study/reused": 0, "study/failed": 0}
    assert len(children(store, first.run_id)) == 3
    assert (Path("reports/small") / "study.html").is_file()
    artifacts = {item.path for item in store.list_artifacts(first.run_id, "report")}
    assert {"report/study.html", "report/study.md", "report/study.csv", "report/study.json"} <= artifacts
    count = len(store.search_runs(["0"]))

    again = main(small(plan, seeds=1))
    assert again.reused and again.run_id == first.run_id and len(store.search_runs(["0"])) == count
    assert "nothing to do: all 3 steps are cached" in capsys.readouterr().out

    more = main(small(plan, seeds=2, explain=True))  # adding a seed runs only that seed
    out = capsys.readouterr().out
    assert more.metrics == {"study/run": 3, "study/reused": 3, "study/failed": 0}
    assert "cache hit: run" in out and "cache miss: seed changed (0 -> 1)" in out
    reused = store.get_run(more.run_id).data.tags["reused_runs"].split()
    assert sorted(reused) == sorted(children(store, first.run_id))

    monkeypatch.setattr(key_module, "_file_digest", _digest_with_changed_loop(key_module._file_digest))
    key_module.code_parts.cache_clear()
    main(small(plan, seeds=1, explain=True))
    assert "cache miss: training/loop.py changed" in capsys.readouterr().out
    key_module.code_parts.cache_clear()

    rewritten = report(ReportParams())
    assert store.get_run(rewritten.run_id).info.status == "FINISHED"


def test_cached_plan_run_writes_missing_report(store: MlflowClient, plan: str, no_figures: None) -> None:
    first = main(small(plan, seeds=1))
    record = (Path("reports/small") / names.PLAN_RECORD).read_text()
    (Path("reports/small") / names.PLAN_RECORD).write_text(
        "{}"
    )  # like the record of a plan run with another number of seeds
    for folder in ("elsewhere", "reports"):
        assert main(small(plan, seeds=1, folder=folder)).run_id == first.run_id
        assert "A small study." in (Path(folder) / "small" / "study.html").read_text()
        assert (Path(folder) / "small" / names.PLAN_RECORD).read_text() == record
    shutil.rmtree(str(store.get_run(first.run_id).info.artifact_uri).removeprefix("file://"))
    assert main(small(plan, seeds=1, folder="third")).run_id != first.run_id
    assert (Path("third") / "small" / "study.html").is_file()


def test_random_class_split_differs_by_seed_and_stays_disjoint(
    store: MlflowClient, plan: str, no_figures: None
) -> None:
    found = main(small(plan, seeds=3, class_split="random"))
    runs = [store.get_run(run_id) for run_id in children(store, found.run_id)]
    classes = defaultdict(lambda: defaultdict(set))
    for run in runs:
        classes[run.data.params["seed"]][run.data.tags[names.STAGE]].add(run.data.tags[names.CLASSES])
    assert all(len(by_stage["transfer"]) == 1 for by_stage in classes.values()), "arms of a seed share their classes"
    pairs = {
        tuple(select_classes(*by_stage[stage], DIGITS, "digits") for stage in ("train_base", "transfer"))
        for by_stage in classes.values()
    }
    assert len(pairs) == 3
    assert all(len(base) == len(target) == 3 and not set(base) & set(target) for base, target in pairs)
    report = Path("reports/small/study.md").read_text()
    assert "The interval covers variation of labels, initialization, order of batches, base, class split" in report
    assert main(small(plan, seeds=3, class_split="random")).run_id == found.run_id


def _digest_with_changed_loop(good):  # type: ignore[no-untyped-def]
    return lambda path: "changed" if path.name == "loop.py" else good(path)


@pytest.mark.slow
def test_step_with_missing_artifacts_or_deleted_run_is_rerun(
    store: MlflowClient, plan: str, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = main(small(plan, seeds=1))
    runs = {store.get_run(run_id).data.tags[names.STAGE]: run_id for run_id in children(store, first.run_id)}
    model = store.get_logged_model(
        store.get_run(runs["train_base"]).data.tags[names.MODEL_URI].removeprefix("models:/")
    )
    shutil.rmtree(model.artifact_location.removeprefix("file://"))
    capsys.readouterr()
    second = main(small(plan, seeds=1, explain=True))
    assert second.metrics["study/run"] == 1, "the base is bit-identical, so the arms that build on it stay cached"
    assert "has the same key but its model" in capsys.readouterr().out
    store.delete_run(runs["transfer"])
    third = main(small(plan, seeds=1))
    assert third.metrics["study/run"] == 1


@pytest.mark.slow
def test_failing_arm_leaves_independent_arms_unaffected(
    store: MlflowClient, tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.yaml"
    bad = "  bad:\n    run: train_base\n    params: {classes: 0-2, epochs: 3, hidden_layers: 2, width: 8, learning_rate: 10, dropout: 0.9}\n"
    worse = "  worse:\n    run: transfer\n    base: target[reuse_layers=2]\n    params: {classes: 3-4, unfreeze: 1}\n"
    path.write_text(
        SMALL.replace("arms:\n  target", "arms:\n" + bad + worse + "  target").replace("unfreeze: 1", "reuse_layers: 9")
    )
    with pytest.raises(PlanIncompleteError, match="1 of 5 steps are missing: worse seed 0: .*reuse_layers=9"):
        main(small(str(path), seeds=1))
    (parent,) = store.search_runs(["0"], "tags.stage = 'main'")
    assert parent.info.status == "FAILED" and "reuse_layers=9" in parent.data.tags[names.NOTE]
    assert "reuse_layers=9" in Path("reports/broken/study.html").read_text()
    with pytest.raises(PlanIncompleteError):
        main(small(str(path), seeds=1))
    parents = store.search_runs(["0"], "tags.stage = 'main'")
    assert sorted(run.data.metrics["study/reused"] for run in parents) == [0, 4]


def test_error_names_the_missing_base(store: MlflowClient, tmp_path: Path, no_figures: None) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(SMALL.replace("run: train_base", "run: tune").replace("width: 8", "width: 8, space: none.yaml"))
    with pytest.raises(
        PlanIncompleteError, match=r"target\[reuse_layers=0\] seed 0, target.* seed 0: its base base seed"
    ):
        main(small(str(path), seeds=1))


def test_cache_key_lists_changed_parts() -> None:
    machine = {"device": "cpu", "threads": "1"}
    one = cache_key(TrainBaseParams(), {"data": "a"}, machine)
    other = CacheKey("train_base", {**one.parts, "inputs": {"data": "b"}, "machine": {**machine, "threads": "2"}})
    assert one.digest != other.digest
    assert one.changes_since(other.parts) == {"inputs": ["data changed"], "machine": ["threads changed (2 -> 1)"]}
    assert one.changes_since(one.parts) == {}
    changed = cache_key(TrainBaseParams(width=50), {"data": "a"}, machine)
    assert changed.changes_since(one.parts) == {"params": ["width changed (100 -> 50)"]}


def test_comments_and_docstrings_do_not_change_cache_key(tmp_path: Path) -> None:
    source = (key_module.PACKAGE / "training" / "loop.py").read_text()
    digests = []
    for number, text in enumerate(
        (source, "# a comment\n" + source, source.replace('"""Return', '"""Give'), source + "\nx = 1\n")
    ):
        path = tmp_path / str(number) / "loop.py"
        path.parent.mkdir()
        path.write_text(text)
        digests.append(key_module._file_digest(path))
    assert digests[0] == digests[1] == digests[2] != digests[3]
    code = key_module.code_parts("train_base")
    assert "training/loop.py" in code and "stages/train_base.py" in code
    assert not any(name.startswith(("report/", "tracking/", "tuning/", "plan/")) for name in code)


SYNTAX = r"""
import a.b as c
from . import d
@decorated
class Kind(Base, metaclass=Meta):
    field: int = 0
    def method(self, x, /, y=1, *rest: int, key: str = "s", **more) -> None:
        return None
async def wait():
    async with a as b, c: await d
    return [x async for x in y if x]
def plain(): return lambda: (yield)
text = f"{value!r:>{width}} {value=} {{}} {'nested'}" "implicit" + u"unicode" + "\u00e9"
numbers = [1, 1.5, 2j, -1e-3, 10**6, True, None, ..., b"bytes"]
match point:
    case {"x": 1, **others}: pass
    case [1, *rest] | None: pass
    case Kind(x=0) if (y := 2): pass
try:
    x[1:2, ::3]
except* (A, B) as error:
    raise C from error
print(*a, **{**b, "c": 1})
"""
SYNTAX_DIGEST = "d6595d1d133e251b"


def test_code_digest_is_identical_across_python_versions(tmp_path: Path) -> None:
    """Computed by `_file_digest` on 3.11; 3.12 and 3.13 agree, although `ast.dump` differs between all three."""
    path = tmp_path / "syntax.py"
    path.write_text(SYNTAX)
    assert key_module._file_digest(path)[:16] == SYNTAX_DIGEST


@pytest.mark.slow
def test_plan_run_adopts_run_created_by_mlflow(
    store: MlflowClient, plan: str, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = main(small(plan, seeds=1))
    made = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    second = main(small(plan, seeds=1))
    assert second.run_id == made and "MLFLOW_RUN_ID" not in os.environ
    run = store.get_run(made)
    assert run.info.status == "FINISHED" and run.data.metrics["study/reused"] == 3
    assert sorted(run.data.tags["reused_runs"].split()) == sorted(children(store, first.run_id))


def test_fourth_confirmatory_comparison_of_a_study_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "family.yaml"
    four = SMALL.replace("[0, 2]", "[0, 1, 2]").replace("kind: compare", "kind: compare, confirmatory: true")
    again = four[four.index("  - {key") :]
    path.write_text(four + again.replace('"1"', '"2"').replace("study: S", "study: Other"))
    assert [question.confirmatory for question in load_plan(str(path), plan_overrides()).questions] == [True, True]
    path.write_text(four + again.replace('"1"', '"2"'))
    with pytest.raises(UserInputError, match="line 17, confirmatory: the study would have 4 confirmatory comparisons"):
        load_plan(str(path), plan_overrides())


def test_labelled_grids_are_paired_by_labels_per_class(tmp_path: Path) -> None:
    path = tmp_path / "curves.yaml"
    grids = SMALL.replace("grid: {reuse_layers: [0, 2]}", "grid: {per_class: [4, 8]}").replace(
        "  base:\n", "  scratch:\n    run: transfer\n    base: base\n    grid: {per_class: [8, 4]}\n"
        "    params: {reuse_layers: 0}\n  base:\n"
    )  # fmt: skip
    question = 'kind: labels, labelled: [[target, scratch]], text: "Worth?"}'
    path.write_text(grids[: grids.index("kind: compare")] + question)
    pairs = load_plan(str(path), plan_overrides()).questions[0].labelled
    assert pairs == tuple((f"target[per_class={count}]", f"scratch[per_class={count}]") for count in (4, 8))


@pytest.mark.parametrize(
    ("kind", "per_class", "margin"),
    [
        ("compare", "10", 1.0),
        ("labels", "50", 1.0),
        ("compare", "51", 0.5),
        ("compare", "all", 0.1),
        ("time", "10", 10.0),
    ],
)
def test_default_margin_depends_on_labels(kind: str, per_class: str, margin: float) -> None:
    assert default_margin(kind, per_class) == margin


def test_plan_says_that_digits_replace_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.data.sources.registry.download_obstacle", lambda *_: "there is no network")
    arms = load_plan("fine_tuning", plan_overrides(overrides={"data_dir": str(tmp_path)})).arms
    assert {summary.name for summary in describe_arms(arms).values()} == {"digits"}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"MNIST is not in {tmp_path} and cannot be downloaded: using digits instead.")
    describe_arms(load_plan("fine_tuning", plan_overrides(overrides={"dataset": "digits"})).arms)
    assert capsys.readouterr().out == ""
