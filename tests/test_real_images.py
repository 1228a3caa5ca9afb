"""Folders of photos in every stage: classes by name, preprocessing of the base, leakage by content, plans that fit."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.errors import UserInputError
from pipeline.params import (
    ENTRY_POINTS,
    CacheFeaturesParams,
    FinetuneCnnParams,
    MainParams,
    ScratchCnnParams,
    TrainBaseParams,
    TransferParams,
    TuneParams,
    parse_params,
)
from pipeline.stages import data_loading
from pipeline.stages.cache_features import cache_features
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.main import main
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.stages.tune import tune
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.stage_run import StageResult

pytestmark = pytest.mark.usefixtures("no_figures")

CLASSES = ("ants", "bees", "big flies", "moths, small", "wasps", "café")
MLP = {"epochs": 2, "hidden_layers": 2, "width": 8}
CNN = {"model": "cnn", "epochs": 1, "conv_channels": "4,4", "dense_width": 8, "image_size": "16", "channels": "3"}

MakeFolder = Callable[..., str]


@pytest.fixture
def photos(tmp_path: Path) -> MakeFolder:
    """Writes a folder of noisy photos and returns it as a dataset; `counts` has the images of each class."""

    def make(name: str, counts: dict[str, int], seed: int = 0) -> str:
        rng = np.random.default_rng(seed)
        for number, (class_name, count) in enumerate(counts.items()):
            folder = tmp_path / name / class_name
            folder.mkdir(parents=True, exist_ok=True)
            start = len(list(folder.iterdir()))
            for index in range(start, start + count):
                pixels = rng.integers(0, 120, (16, 16, 3)) + np.array([20 * number, 100 - 20 * number, 60])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
        return f"folder:{tmp_path / name}"

    return make


@pytest.fixture
def insects(photos: MakeFolder) -> str:
    """Six classes with some 50 photos each, one of them with 20."""
    return photos("insects", dict(zip(CLASSES, (60, 20, 50, 50, 45, 60), strict=True)))


def params_of(store: MlflowClient, result: StageResult) -> dict[str, str]:
    return dict(store.get_run(result.run_id).data.params)


def read(store: MlflowClient, result: StageResult, artifact: str) -> str:
    return Path(store.download_artifacts(result.run_id, artifact)).read_text(encoding="utf-8")


def architecture_of(store: MlflowClient, result: StageResult):  # type: ignore[no-untyped-def]
    return load_base(store, result.run_id).network.architecture


def run_next(out: str, **more: object) -> StageResult:
    """Run the command that a stage has printed, with changed parameters."""
    words = shlex.split(out.split("next: python -m pipeline ")[-1].splitlines()[0])
    raw = {name.removeprefix("--"): value for name, value in zip(words[1::2], words[2::2], strict=True)}
    stages = {"transfer": transfer, "finetune_cnn": finetune_cnn}
    return stages[words[0]](parse_params(ENTRY_POINTS[words[0]], {**raw, **more}))


def test_classes_are_logged_by_name_with_counts_and_recall(
    store: MlflowClient, insects: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = train_base(TrainBaseParams(**MLP, dataset=insects, classes='bees,"moths, small",wasps'))
    assert params_of(store, result)["classes"] == 'bees,"moths, small",wasps'
    assert store.get_run(result.run_id).data.tags[names.CLASSES] == 'bees,"moths, small",wasps'
    assert architecture_of(store, result).classes == ("bees", "moths, small", "wasps")
    assert "0 = bees (" in caplog.text and "imbalanced classes: " in caplog.text
    rows = list(csv.DictReader(read(store, result, names.CLASS_TABLE).splitlines()))
    assert [row["class"] for row in rows] == ["bees", "moths, small", "wasps"]
    assert [sum(int(row[part]) for part in ("train", "validation", "test")) for row in rows] == [20, 50, 45]
    recalls = [float(row["recall"]) for row in rows]
    assert result.metrics[names.BALANCED_ACCURACY] == pytest.approx(sum(recalls) / 3)
    assert result.metrics["test/recall_moths_ small"] == recalls[1]


def test_unknown_class_is_rejected_with_the_closest_name(store: MlflowClient, insects: str) -> None:
    for stage, kind in ((train_base, TrainBaseParams), (transfer, TransferParams)):
        with pytest.raises(UserInputError, match=r"classes=ants,bes: folder:.* has no class bes.*Did you mean bees\?"):
            stage(kind(dataset=insects, classes="ants,bes"))
    assert store.search_runs(["0"]) == []


def test_added_folder_does_not_shift_the_classes(store: MlflowClient, insects: str, photos: MakeFolder) -> None:
    base = train_base(TrainBaseParams(**MLP, dataset=insects, classes="bees,wasps"))
    photos("insects", {"aphids": 20}, seed=7)
    target = transfer(TransferParams(dataset=insects, base=base.run_id, epochs=1))
    assert architecture_of(store, target).classes == ("ants", "aphids", "big flies", "café", "moths, small")
    continued = transfer(TransferParams(dataset=insects, base=base.run_id, classes="bees,wasps", epochs=1, unfreeze=2))
    before, after = (load_base(store, result.run_id) for result in (base, continued))
    assert after.classes == before.classes == ("bees", "wasps")
    assert set(after.train_ids.tolist()) == set(before.train_ids.tolist())  # its label sample is found again


def test_preprocessing_is_stored_with_the_base_and_used_by_targets(store: MlflowClient, insects: str) -> None:
    base = train_base(TrainBaseParams(**CNN, dataset=insects, classes="0-2"))
    record: Preprocessing = architecture_of(store, base).preprocessing
    assert record.size == (16, 16) and record.channels == 3 and record.mean is not None and record.std is not None
    logged = params_of(store, base)
    assert (logged["image_size"], logged["channels"]) == ("16", "3")
    assert logged["mean"] == ",".join(map(str, record.mean))
    target = finetune_cnn(FinetuneCnnParams(base=base.run_id, epochs=1))
    assert architecture_of(store, target).preprocessing == record
    assert {name: params_of(store, target)[name] for name in ("image_size", "channels", "mean", "std")} == {
        name: logged[name] for name in ("image_size", "channels", "mean", "std")
    }
    model = mlflow.pyfunc.load_model(base.model_uri)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16)).astype(np.float32)
    expected = torch.softmax(load_base(store, base.run_id).network(torch.from_numpy(pixels)), 1)
    assert np.allclose(model.predict(pixels), expected.detach().numpy(), atol=1e-5)


def test_preprocessing_is_part_of_the_cache_key(store: MlflowClient, insects: str) -> None:
    small = {**CNN, "dataset": insects, "classes": "0-1"}
    results = [train_base(TrainBaseParams(**small, **more)) for more in ({}, {"std": "none"})]
    keys = [store.get_run(result.run_id).data.tags[names.CACHE_KEY] for result in results]
    assert keys[0] != keys[1]
    parts = json.loads(store.get_run(results[0].run_id).data.tags[names.KEY_PARTS])
    assert set(parts["inputs"]) == {"data", "preprocessing"}


def test_features_of_other_preprocessing_are_rejected(store: MlflowClient, insects: str) -> None:
    base = train_base(TrainBaseParams(**CNN, dataset=insects, classes="0-2"))
    features = cache_features(CacheFeaturesParams(base=base.run_id, depth=1))
    cached, plain = (
        finetune_cnn(FinetuneCnnParams(base=base.run_id, epochs=1, dtype="float32", features=source))
        for source in (features.run_id, "none")
    )
    assert cached.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-4)
    other = train_base(TrainBaseParams(**CNN, dataset=insects, classes="0-2", mean="0.5", std="0.2"))
    with pytest.raises(UserInputError, match="computed from other inputs: preprocessing, weights"):
        finetune_cnn(FinetuneCnnParams(base=other.run_id, epochs=1, features=features.run_id))


@pytest.mark.parametrize("settings", [MLP, CNN])
@pytest.mark.parametrize("classes", ["auto", "0-2", "0-4"])
def test_printed_next_command_works_on_a_folder(
    store: MlflowClient, insects: str, settings: dict[str, object], classes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train_base(TrainBaseParams(**settings, dataset=insects, classes=classes))
    first = run_next(capsys.readouterr().out, epochs="1")
    if settings is MLP:
        second = run_next(capsys.readouterr().out, epochs="1")
        assert architecture_of(store, second).classes == architecture_of(store, first).classes
    features = cache_features(CacheFeaturesParams(base=first.run_id, depth=1))
    assert params_of(store, run_next(capsys.readouterr().out, epochs="1"))["features"] == features.run_id


def test_seen_test_images_are_excluded_under_any_name(
    store: MlflowClient,
    insects: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = train_base(TrainBaseParams(**MLP, dataset=insects, classes="ants,wasps"))
    (tmp_path / "insects").rename(tmp_path / "renamed")
    other = f"folder:{tmp_path / 'renamed'}"
    free = transfer(TransferParams(dataset=other, base=base.run_id, classes="bees,big flies", epochs=1))
    assert free.metrics[names.EXCLUDED_TEST_IMAGES] == 0
    seen = load_base(store, base.run_id).seen_ids
    monkeypatch.setattr(data_loading, "load_dataset", lambda *words, **more: swapped(load_dataset(*words, **more)))
    result = transfer(TransferParams(dataset=other, base=base.run_id, classes="ants,wasps", epochs=1))
    assert result.metrics[names.EXCLUDED_TEST_IMAGES] == len(seen)
    assert f"{len(seen)} of " in caplog.text and "test images excluded: the base was trained on them" in caplog.text
    target = load_base(store, result.run_id)
    assert torch.isin(seen, target.seen_ids).all() and torch.isin(target.train_ids, target.seen_ids).all()


def swapped(dataset: Dataset) -> Dataset:
    """A dataset whose official test split holds the training images of a base."""
    return replace(dataset, train=dataset.test, test=dataset.train)


def test_continued_base_is_not_tested_on_its_training_images(store: MlflowClient, photos: MakeFolder) -> None:
    """Adding images once moved eleven of 24 test images into the training split of the base."""
    dataset = photos("animals", {"cats": 40, "dogs": 40, "eels": 40, "foxes": 40})
    base = train_base(TrainBaseParams(**MLP, dataset=dataset, classes="cats,dogs"))
    photos("animals", {"cats": 1, "dogs": 1, "eels": 1, "foxes": 1}, seed=5)
    continued = transfer(TransferParams(dataset=dataset, base=base.run_id, classes="cats,dogs", unfreeze=2, epochs=1))
    before, after = (load_base(store, result.run_id) for result in (base, continued))
    assert set(after.train_ids.tolist()) == set(before.train_ids.tolist())
    assert continued.metrics[names.EXCLUDED_TEST_IMAGES] == 0


def test_defaults_are_lowered_to_what_the_folder_has(
    store: MlflowClient, photos: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dataset = photos("few", {"a": 14, "b": 14, "c": 14, "d": 14})
    result = transfer(TransferParams(dataset=dataset, epochs=1))
    assert "training one first, on classes a,b" in caplog.text and "lowered from 128 to " in caplog.text
    logged = params_of(store, result)
    assert logged["classes"] == "c,d" and int(logged["per_class"]) < 12 and int(logged["val_per_class"]) < 4
    assert f"per_class: lowered from 100 to {logged['per_class']}," in caplog.text
    with pytest.raises(UserInputError, match=r"per_class=100: class . of folder:.* has \d+ training images"):
        transfer(TransferParams(dataset=dataset, epochs=1, per_class=100))
    with pytest.raises(UserInputError, match="batch_size=64: must be at most the number of training images"):
        train_base(TrainBaseParams(dataset=dataset, batch_size=64, classes="a,b"))
    tuned = tune(TuneParams(dataset=photos("tiny", {"a": 5, "b": 5}), dry_run=True))
    assert tuned.run_id == "" and "folds: " in caplog.text


def test_scratch_takes_all_classes_without_a_base(store: MlflowClient, insects: str) -> None:
    result = scratch_cnn(ScratchCnnParams(dataset=insects, epochs=1, image_size="16", channels="3"))
    assert architecture_of(store, result).classes == tuple(sorted(CLASSES))
    assert architecture_of(store, result).preprocessing.mean is not None


def test_surface_plan_fits_a_folder_of_photos(
    store: MlflowClient, insects: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"train_base": {"epochs": 2}, "transfer": {"epochs": 2}}
    monkeypatch.setattr("pipeline.plan.arms.ArmReader._setting", _quick(quick))
    result = main(MainParams(plan="surface", dataset=insects, threads=1, workers=1, seeds=1))
    out = capsys.readouterr().out
    assert f"base classes of {insects}: ants,bees,big flies" in out
    assert f'target classes of {insects}: café,"moths, small",wasps' in out
    assert "Lowered to fit the data: per_class 100 -> " in out
    assert result.metrics["study/failed"] == 0
    page = Path("reports/surface/study.html").read_text(encoding="utf-8")
    assert "Lowered to fit the data: per_class 100" in page and "per_class=100" not in page


def _quick(epochs: dict[str, dict[str, int]]):  # type: ignore[no-untyped-def]
    from pipeline.plan.arms import ArmReader

    setting = ArmReader._setting
    return lambda self, kind, params: {**setting(self, kind, params), **epochs.get(kind.entry_point, {})}


def dry_run(dataset: str, plan: str = "surface", **more: str) -> StageResult:
    return main(MainParams(plan=plan, dataset=dataset, dry_run=True, **more))


def test_dry_run_of_a_plan_checks_classes(store: MlflowClient, insects: str, photos: MakeFolder) -> None:
    with pytest.raises(UserInputError, match="target_classes|has no class flies") as caught:
        dry_run(insects, target_classes="bees,flies")
    assert len(caught.value.faults) == 1
    with pytest.raises(UserInputError, match="has 3 classes .* Name a base that was trained on other data"):
        dry_run(photos("three", {"a": 9, "b": 9, "c": 9}))
    with pytest.raises(UserInputError, match="target_classes=.* leaves 1 of the 6 classes"):
        dry_run(insects, target_classes="0-4")
    assert store.search_runs(["0"]) == []


def test_classes_of_one_side_leave_the_rest_for_the_other(
    store: MlflowClient, insects: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(insects, base_classes="wasps,bees")
    assert "target classes of" in (out := capsys.readouterr().out) and 'ants,big flies,café,"moths, small"' in out
    dry_run("digits", base_classes="3-6")
    assert "classes=0-2,7-9" in capsys.readouterr().out
    dry_run("digits")
    assert "classes=0-4" in (out := capsys.readouterr().out) and "classes=5-9" in out
    dry_run(insects, plan="assignments")
    assert "finetune_cnn" in capsys.readouterr().out


OWN = """
title: Mine
profiles: {quick: {seeds: 2}}
arms:
  base: {run: train_base}
  few: {run: transfer, base: base, params: {per_class: 500}, grid: {reuse_layers: [1, 2, 3, 4]}}
questions: []
"""


def test_impossible_value_of_a_plan_is_rejected_once(store: MlflowClient, insects: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN)
    with pytest.raises(UserInputError, match="per_class=500: classes .* allow at most") as caught:
        dry_run(insects, plan=str(tmp_path / "mine.yaml"))
    assert len(caught.value.faults) == 1


def test_model_of_an_earlier_release_is_rejected(store: MlflowClient, insects: str) -> None:
    base = train_base(TrainBaseParams(**MLP, dataset=insects))
    location = store.get_logged_model(base.model_uri.removeprefix("models:/")).artifact_location
    file = Path(str(location).removeprefix("file://")) / names.EXTRA_FILES / names.ARCHITECTURE_FILE
    file.write_text(json.dumps({"family": "mlp", "image_shape": [1, 28, 28], "classes": [0, 1], "hidden_layers": 2}))
    with pytest.raises(UserInputError, match=r"trained by an earlier release.*Train it again, or choose another base"):
        transfer(TransferParams(base=base.run_id))
