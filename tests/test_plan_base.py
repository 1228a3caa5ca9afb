"""Plans on an existing base: its arms, cuts, classes, feature pass, cost, and the user's own code beside a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.errors import UserInputError
from pipeline.params import (
    CacheFeaturesParams,
    FinetuneCnnParams,
    ImportBaseParams,
    MainParams,
    TrainBaseParams,
    TransferParams,
)
from pipeline.params.base import StageParams
from pipeline.plan.records import PlannedArm, Setting
from pipeline.stages.import_base import import_base
from pipeline.stages.main import main, prepare_plan
from pipeline.stages.plan_base import scaled_cuts
from pipeline.stages.plan_cost import plan_cost
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageResult
from pipeline.training import cut_features
from tests.photos import write_photos

OWN_CODE = """
from torch import nn
from tests.networks import SmallResNet

def small() -> nn.Module:
    return SmallResNet(num_classes=3)
"""
PLAN = """
title: Mine
profiles: {quick: {seeds: 2, params: {transfer: {epochs: 1}}}}
common: {threads: 1, val_per_class: 3, batch_size: 8}
arms:
  base: {run: import_base, label: base}
  frozen:
    run: transfer
    base: base
    params: {head_solver: convex}
    grid: {reuse_layers: [2, 5], per_class: [4, 8]}
  scratch: {run: transfer, base: base, params: {reuse_layers: 0, per_class: 8}}
questions:
  - {key: "1", study: S, kind: compare, arms: [frozen], reference: scratch, text: "Better?"}
  - {key: "2", study: S, kind: score, arms: [base], text: "How good is the base?"}
"""
MakeFolder = Callable[[str, tuple[str, ...]], str]


@pytest.fixture
def photos(tmp_path: Path) -> MakeFolder:
    """Writes 24 noisy photos per class and returns the folder as a dataset."""
    return lambda name, classes: write_photos(tmp_path / name, classes)


@pytest.fixture
def plan(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(PLAN)
    return str(tmp_path / "mine.yaml")


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(OWN_CODE)
    return f"own:{tmp_path / 'nets.py'}:small"


@pytest.fixture
def own_base(store: MlflowClient, code: str) -> StageResult:
    """The user's network of seven blocks, imported without a dataset."""
    return import_base(ImportBaseParams(model=code, weights="none", image_size="16"))


def test_existing_base_serves_all_arms_of_a_plan(
    store: MlflowClient, own_base: StageResult, code: str, plan: str, photos: MakeFolder, no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    passes: list[int] = []
    compute = cut_features.compute_cut_features
    for module in ("cut_pass", "feature_source"):
        monkeypatch.setattr(
            f"pipeline.stages.{module}.compute_cut_features",
            lambda *given, path: passes.append(1) or compute(*given, path=path),
        )
    dataset = photos("pets", ("cat", "dog"))
    result = main(MainParams(plan=plan, base=own_base.run_id, model=code, dataset=dataset, workers=1))
    assert result.metrics["study/run"] == 1 + 2 * (4 + 1) and len(passes) == 1
    runs = store.search_runs(["0"], f"tags.mlflow.parentRunId = '{result.run_id}'")
    assert {run.data.tags[names.BASE_RUN_ID] for run in runs} == {own_base.run_id}
    assert {run.data.params["classes"] for run in runs} == {"cat,dog"}
    assert Counter(run.data.tags[names.STAGE] for run in runs) == {"transfer": 10, "cache_features": 1}


def test_surface_fits_two_classes_and_any_number_of_blocks(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = photos("pets", ("cat", "dog"))
    main(MainParams(plan="surface", base=own_base.model_uri, model=code, dataset=dataset, dry_run=True))
    out = capsys.readouterr().out
    assert "Fitted to the 7 blocks of the base: reuse_layers 2 -> 3, reuse_layers 3 -> 4, reuse_layers 4 -> 6" in out
    assert "per_class 100 -> " in out and "cuts=3,4,6,7" in out and "draws=11" in out
    assert "reuse[reuse_layers=7, unfreeze=7, per_class=10] seed 2: transfer" in out
    assert "estimated cost: " in out and "train_base" not in out
    assert " 0 min" not in out


def test_only_unseen_classes_of_the_bases_data_are_targets(
    store: MlflowClient, photos: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = photos("insects", ("ant", "bee", "fly", "moth", "wasp"))
    seen = {"ant,fly,wasp": "bee,moth", "ant,bee,fly,wasp": ""}
    for classes, expected in seen.items():
        base = train_base(TrainBaseParams(dataset=dataset, classes=classes, epochs=1, batch_size=8, image_size="16"))
        if expected:
            main(MainParams(plan="worth", base=base.model_uri, dry_run=True))
            assert f"classes={expected}" in capsys.readouterr().out
            continue
        with pytest.raises(UserInputError, match="was trained on all but 1 of the 5 classes"):
            main(MainParams(plan="worth", base=base.model_uri, dry_run=True))


def test_estimated_cost_counts_steps_and_grows_with_epochs(
    store: MlflowClient, own_base: StageResult, code: str, plan: str, photos: MakeFolder
) -> None:
    dataset, costs = photos("pets", ("cat", "dog")), []
    for epochs in (10, 100_000):
        path = Path(plan).with_name(f"plan{epochs}.yaml")
        path.write_text(PLAN.replace("epochs: 1", f"epochs: {epochs}"))
        params = MainParams(plan=str(path), base=own_base.model_uri, model=code, dataset=dataset)
        found, base = prepare_plan(params, store)
        assert base is not None
        costs.append(plan_cost(found, base))
    assert [cost.steps for cost in costs] == [11, 11]
    assert costs[1].seconds > 3 * costs[0].seconds and costs[1].longest[1] == "scratch"
    assert "11 steps" in costs[0].text(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "is about an existing base"),
        ({"base": "own", "plan": "assignments"}, "builds on 2 bases"),
        ({"base": "own", "plan": "batch_norm"}, "has no arm that builds on a base"),
        ({"base": "own", "model": ""}, "loading a model never runs"),
        ({"base": "own", "dataset": "auto"}, "imported without a dataset"),
        ({"base": "own", "image_size": "20"}, "the base has image_size=16"),
        ({"base": "own", "cut": "9"}, "must be between 0 and 7"),
        ({"base": "own", "cut": "layer9"}, "layer9"),
    ],
)
def test_unfit_base_is_rejected_before_any_run(
    store: MlflowClient, own_base: StageResult, code: str, plan: str, photos: MakeFolder, changes: dict[str, str],
    message: str,
) -> None:  # fmt: skip
    raw = {"plan": plan, "dataset": photos("pets", ("cat", "dog")), "model": code, **changes}
    if raw.pop("base", ""):
        raw["base"] = own_base.model_uri
    else:
        del raw["model"]
    if cut := raw.pop("cut", ""):
        Path(plan).write_text(PLAN.replace("[2, 5]", f"[2, {cut}]"))
    with pytest.raises(UserInputError, match=message):
        main(MainParams(**raw))
    assert len(store.search_runs(["0"])) == 1  # the base's


def test_own_code_and_base_classes_need_the_right_base() -> None:
    with pytest.raises(UserInputError, match="Needs base: the base that this code built"):
        MainParams(model="own:nets.py:small")
    with pytest.raises(UserInputError, match="An existing base has its own classes"):
        MainParams(base="models:/m-" + 32 * "0", base_classes="0-4")


def test_params_of_an_existing_base_are_rejected(store: MlflowClient, plan: str) -> None:
    Path(plan).write_text(PLAN.replace("import_base, label", "import_base, params: {seed: 1}, label"))
    with pytest.raises(UserInputError, match="line 6|takes no params"):
        main(MainParams(plan=plan))


def arm(kind: type[StageParams], setting: Setting) -> PlannedArm:
    return PlannedArm("arm", "arm", kind, setting, base="base", seeds=1, grid="arm")


@given(st.integers(1, 30), st.integers(1, 60), st.data())
def test_scaled_cuts_are_valid_for_the_base(planned: int, depth: int, data: st.DataObject) -> None:
    copied = data.draw(st.integers(0, planned))
    trained = data.draw(st.integers(0, copied))
    transfer = {"reuse_layers": copied, "unfreeze": trained}
    cuts = {**transfer, **scaled_cuts(arm(TransferParams, transfer), planned, depth)}
    assert 0 <= cuts["unfreeze"] <= cuts["reuse_layers"] <= depth
    assert (cuts["reuse_layers"] > 0, cuts["unfreeze"] > 0) == (copied > 0, trained > 0)
    assert (cuts["reuse_layers"] == depth) or copied < planned
    parts = {"frozen": copied - trained, "intermediate": trained}
    cuts = {**parts, **scaled_cuts(arm(FinetuneCnnParams, parts), planned, depth)}
    assert cuts["frozen"] >= 0 and 0 <= cuts["frozen"] + cuts["intermediate"] <= depth
    assert (cuts["intermediate"] > 0) == (trained > 0)
    if copied:
        scaled = scaled_cuts(arm(CacheFeaturesParams, {"depth": copied}), planned, depth)
        assert 1 <= {"depth": copied, **scaled}["depth"] <= depth
