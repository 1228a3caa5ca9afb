"""Pooled features at several cuts in one pass; transfer on them; probes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from pipeline.errors import UserInputError
from pipeline.networks.graph.network import GraphNetwork, Origin, build_from_module, describe, divide
from pipeline.networks.graph.pooling import build_pooling
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.reuse import Reuse
from pipeline.networks.tensor_file import allocate_tensor_file, read_tensor_file
from pipeline.params import CacheFeaturesParams, ProbeParams, TrainBaseParams, TransferParams, parse_params
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import load_plan
from pipeline.report.probe_profile import CutScore, draw_profile, takeaway
from pipeline.runtime import generator
from pipeline.stages.cache_features import cache_features
from pipeline.stages.probe import probe
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.cut_artifacts import ARTIFACT, find_cut_features
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult
from pipeline.training.cut_features import compute_cut_features, cut_fingerprint
from pipeline.training.evaluate import evaluate
from pipeline.training.features import check_sample
from pipeline.training.head_fit import head_inputs
from pipeline.training.inputs import model_inputs
from tests.conftest import preprocessing
from tests.networks import SmallResNet
from tests.test_reuse import base_network, images, reused

BASE = {"dataset": "digits", "epochs": 5, "hidden_layers": 3, "width": 16, "batch_size": 32}
QUICK = {"dataset": "digits", "epochs": 3, "per_class": 20, "val_per_class": 10, "batch_size": 32}
DRAWN = {"dataset": "digits", "per_class": 20, "val_per_class": 10}


class GrayResNet(nn.Module):
    """A small ResNet for images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 1)
        self.body = SmallResNet(num_classes=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.stem(x))


def resnet() -> LayeredNetwork:
    torch.manual_seed(0)
    module = GrayResNet().train()
    for _ in range(3):  # batch-norm statistics as after some training
        module(torch.rand(16, 1, 6, 6))
    origin = Origin("own", "nets.py:f", "", "0" * 64, preprocessing(1, 6, 6))
    record = describe(divide(module, (1, 6, 6)), origin, ("0", "1", "2"))
    return build_from_module(module, record, generator(0, "w")).eval()


def test_features_of_all_cuts_equal_those_of_each_head(tmp_path: Path) -> None:
    network = resnet()
    cuts = range(1, len(network.blocks) + 1)
    assert len(cuts) == 7
    train, test = images(), images(30, 1)
    features = compute_cut_features(network, cuts, [train, test, train], path=tmp_path / "cuts.safetensors")
    assert features.cuts == tuple(cuts) and len(features.tensors["ids"]) == len(train.ids.unique()) + len(test)
    for cut in cuts:
        head_only = frozen_head(network, cut)
        for part in (train, test):
            expected = head_inputs(head_only, model_inputs(head_only, part))
            assert torch.allclose(features.at(cut).rows(part.ids), expected, rtol=0, atol=1e-5 * float(expected.max()))
        check_sample(features.at(cut), head_only, train)


def frozen_head(network: LayeredNetwork, cut: int) -> LayeredNetwork:
    """Return a new head on the first blocks of a traced network."""
    architecture = network.architecture.target(("5", "6", "7"), cut)  # type: ignore[union-attr]
    head = nn.Linear(architecture.blocks[cut - 1].pooled_width, 3)
    pool = build_pooling(architecture.blocks[cut - 1].pooling)
    return GraphNetwork(architecture, list(network.blocks)[:cut], head, pool=pool).eval()


def test_evaluation_on_pooled_features_equals_that_on_pixels(tmp_path: Path) -> None:
    network, part = resnet(), images()
    features = compute_cut_features(network, [3], [part], path=tmp_path / "cuts.safetensors").at(3)
    head_only = frozen_head(network, 3)
    cached = evaluate(head_only, model_inputs(head_only, part, features), start=3)
    assert cached.loss == pytest.approx(evaluate(head_only, model_inputs(head_only, part)).loss, rel=1e-5)


def test_features_are_written_to_a_tensor_file(tmp_path: Path) -> None:
    network, path = reused_mlp(), tmp_path / "folder" / "cuts.safetensors"
    features = compute_cut_features(network, [1, 3], [images()], path=path)
    stored, _ = read_tensor_file(path, 1 << 20)
    assert stored.keys() == {"ids", "cut_1", "cut_3"}
    assert all(torch.equal(stored[name], features.tensors[name]) for name in stored)


def reused_mlp() -> LayeredNetwork:
    return reused(base_network(3), Reuse(3, 3, 3))


def test_allocated_tensors_are_zero_and_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = allocate_tensor_file(path, {"a": (torch.int64, (3,)), "b": (torch.float32, (5, 7))})
    assert not tensors["a"].any() and not tensors["b"].any()
    tensors["b"][2, 3] = 4.5
    stored, _ = read_tensor_file(path, 1 << 20)
    assert float(stored["b"][2, 3]) == 4.5 and float(stored["b"].sum()) == 4.5 and stored["a"].tolist() == [0, 0, 0]


@pytest.fixture
def base(store: MlflowClient) -> StageResult:
    """A small base on digits 0-4."""
    return train_base(TrainBaseParams(**BASE))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("solver", ["sgd", "convex"])
def test_transfer_on_shared_features_matches_uncached(
    base: StageResult, store: MlflowClient, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [transfer(TransferParams(**QUICK, reuse_layers=cut, seed=1, head_solver=solver)) for cut in (1, 3)]
    cache_features(CacheFeaturesParams(**DRAWN, cuts="every", draws=2))
    monkeypatch.setattr(
        "pipeline.stages.feature_source.compute_features", lambda *_, **__: pytest.fail("features were not shared")
    )
    monkeypatch.setattr(
        "pipeline.stages.feature_source.prefix_seconds", lambda *_, **__: pytest.fail("frozen blocks were run")
    )
    shared = [
        transfer(TransferParams(**QUICK, reuse_layers=cut, seed=1, features="auto", head_solver=solver))
        for cut in (1, 3)
    ]
    for one, other in zip(plain, shared, strict=True):
        assert other.metrics["test/loss"] == pytest.approx(one.metrics["test/loss"], rel=1e-4)
        assert other.metrics[names.FEATURES_SECONDS] > 0
    assert len({result.metrics["test/loss"] for result in plain}) == 2


@pytest.mark.usefixtures("no_figures")
def test_test_images_with_features_run_no_frozen_block(
    base: StageResult, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_features(CacheFeaturesParams(**DRAWN, cuts="2"))
    depths = []
    monkeypatch.setattr(
        "pipeline.stages.training_run.evaluate",
        lambda network, data, *, start=0, probabilities=True: depths.append(start) or evaluate(network, data, start=start),  # type: ignore[func-returns-value]
    )  # fmt: skip
    transfer(TransferParams(**QUICK, reuse_layers=2, features="auto"))
    assert depths == [2, 2, 2]


def test_features_of_other_images_or_weights_are_not_used(base: StageResult, store: MlflowClient) -> None:
    cache_features(CacheFeaturesParams(**DRAWN, cuts="1,2"))
    network = load_base(store, base.run_id).network
    ids = load_base(store, base.run_id).train_ids
    assert find_cut_features(store, network, 1, ids=ids) is None  # images of the base
    run = store.search_runs(["0"], "tags.stage = 'cache_features'")[0]
    path = store.download_artifacts(run.info.run_id, ARTIFACT)
    covered = read_tensor_file(Path(path), 1 << 24)[0]["ids"]
    assert find_cut_features(store, network, 2, ids=covered[:7]) is not None
    assert find_cut_features(store, network, 3, ids=covered[:7]) is None  # not among the cuts
    before = cut_fingerprint(network)
    with torch.no_grad():
        network.blocks[0][1].weight[0, 0] += 1  # type: ignore[index]
    assert cut_fingerprint(network) != before and find_cut_features(store, network, 2, ids=covered[:7]) is None


def test_damaged_features_are_skipped(base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    result = cache_features(CacheFeaturesParams(**DRAWN, cuts="1"))
    path = Path(store.get_run(result.run_id).info.artifact_uri.removeprefix("file://")) / ARTIFACT
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    network = load_base(store, base.run_id).network
    assert find_cut_features(store, network, 1, ids=torch.zeros(0, dtype=torch.int64)) is None
    assert "skipped features" in caplog.text and "altered content" in caplog.text


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CacheFeaturesParams, {"cuts": "1", "depth": 2}, "depth=2: .*cuts chooses blocks too"),
        (CacheFeaturesParams, {"cuts": "1,,2"}, "cuts=1,,2"),
        (ProbeParams, {"folds": 2}, r"folds=2: must be an integer in \[3, 100\]"),
    ],
)  # fmt: skip
def test_bad_cuts_are_rejected(kind, values: dict[str, object], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserInputError, match=f"(?i){message}"):
        parse_params(kind, values)


def test_unknown_cut_is_rejected(base: StageResult) -> None:
    with pytest.raises(UserInputError, match=r"cuts=4: must be an integer in \[0, 3\]"):
        probe(ProbeParams(**DRAWN, cuts="4"))
    with pytest.raises(UserInputError, match="per_class=1: the smallest class has 2 images; cross-validation needs 3"):
        probe(ProbeParams(dataset="digits", per_class=1, val_per_class=1))


def test_probe_scores_every_cut(base: StageResult, store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    measured = transfer(TransferParams(**QUICK, reuse_layers=2, seed=3))
    transfer(TransferParams(**{**QUICK, "per_class": 30}, reuse_layers=2))  # other labels
    result = probe(ProbeParams(**DRAWN, folds=3))
    table = Path(store.download_artifacts(result.run_id, names.PROFILE)).read_text()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["cut"] for row in rows] == ["1", "2", "3"] and {row["units"] for row in rows} == {"16"}
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1
        assert float(row["accuracy"]) > 0.5
    assert rows[1]["frozen_runs"] == "1" and rows[0]["frozen_runs"] == "0" and rows[0]["frozen_accuracy"] == ""
    assert float(rows[1]["frozen_accuracy"]) == measured.metrics[names.TEST_ACCURACY]
    history = store.get_metric_history(result.run_id, "probe/accuracy")
    assert {point.step: point.value for point in history} == {int(r["cut"]): float(r["accuracy"]) for r in rows}
    best = max(rows, key=lambda row: float(row["accuracy"]))
    assert result.metrics[names.PROBE_BEST_CUT] == int(best["cut"])
    assert [item.path for item in store.list_artifacts(result.run_id, names.FIGURES)] == ["figures/profile.png"]
    printed = capsys.readouterr().out
    assert f"takeaway: heads on frozen features are most accurate after block {best['cut']}:" in printed
    assert f"next: python -m pipeline transfer --reuse_layers {best['cut']}" in printed
    words = printed.rpartition("next: python -m pipeline transfer ")[2].split()
    given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert transfer(parse_params(TransferParams, {**given, "dataset": "digits"})).metrics[names.FEATURES_SECONDS] > 0


def test_probe_is_a_cached_plan_step(base: StageResult, store: MlflowClient) -> None:
    context = PlanContext(store.create_run("0").info.run_id)
    first, second = (probe(ProbeParams(**DRAWN, cuts="2"), plan_context=context) for _ in range(2))
    assert second.reused and second.run_id == first.run_id


def test_score_of_a_cut_is_independent_of_other_cuts(base: StageResult, store: MlflowClient) -> None:
    alone, together = (
        store.get_metric_history(probe(ProbeParams(**DRAWN, folds=3, cuts=cuts)).run_id, "probe/logme")
        for cuts in ("2", "1,2")
    )
    assert [point.step for point in together] == [1, 2]
    assert alone[0].value == together[1].value != together[0].value


def score(cut: int, accuracy: float, logme: float, **more: object) -> CutScore:
    values = {"units": 4, "converged": True, "at_grid_edge": 0, "seconds": 1.0, **more}
    return CutScore(
        cut, f"layer{cut}", accuracy=accuracy, low=accuracy - 0.05, high=accuracy + 0.05, logme=logme, **values
    )  # type: ignore[arg-type]


def test_takeaway_names_cuts_within_the_interval() -> None:
    text = takeaway([score(1, 0.7, 0.1), score(2, 0.86, 0.3), score(3, 0.9, 0.2)])
    assert text.startswith("heads on frozen features are most accurate after block 3 (layer3): 90.00 %")
    assert "within its interval: 2; LogME prefers cut 2." in text
    assert "no other cut is within its interval; LogME agrees" in takeaway([score(1, 0.7, 0.1), score(3, 0.9, 0.2)])


def test_figure_shows_intervals_and_measured_accuracies() -> None:
    figure = draw_profile([score(1, 0.7, 0.1, frozen_runs=2, frozen_accuracy=0.6), score(2, 0.86, 0.3)], "title")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["transfer, frozen: test accuracy", "solved head, cross-validation (95 % interval)"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["1 layer1", "2 layer2"]


def test_plan_may_contain_a_pass_and_a_probe(tmp_path: Path) -> None:
    path = tmp_path / "cuts.yaml"
    path.write_text(PLAN)
    assert list(load_plan(str(path), PlanOverrides(profile="quick")).arms) == [
        "base",
        "cuts",
        "profile",
        "frozen[reuse_layers=1]",
    ]


PLAN = """
title: Cuts
description: One pass for all frozen arms.
profiles: {quick: {seeds: 1}}
arms:
  base: {run: train_base, label: base}
  cuts: {run: cache_features, label: features, base: base, params: {cuts: every, per_class: 20}}
  profile: {run: probe, label: probe, base: base, params: {per_class: 20}}
  frozen: {run: transfer, label: frozen, base: base, params: {features: auto}, grid: {reuse_layers: [1]}}
questions:
  - {key: "1", study: Cuts, kind: score, arms: ["frozen[reuse_layers=1]"], text: "How accurate?"}
"""
