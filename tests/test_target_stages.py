"""Stages that reuse a base: loading, lineage, caching, validation, read back from a real sqlite store."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient

from pipeline.errors import UserInputError
from pipeline.networks.build import build_network
from pipeline.params import (
    ENTRY_POINTS,
    CacheFeaturesParams,
    FinetuneCnnParams,
    ScratchCnnParams,
    TrainBaseParams,
    TransferParams,
    parse_params,
)
from pipeline.runtime import generator
from pipeline.stages.cache_features import cache_features
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult

pytestmark = pytest.mark.usefixtures("no_figures")

BASE = {"dataset": "digits", "epochs": 5, "hidden_layers": 3, "width": 16, "batch_size": 32}
CNN = {"dataset": "digits", "epochs": 2, "model": "cnn", "conv_channels": "4,6", "dense_width": 12, "batch_size": 64}
QUICK = {"dataset": "digits", "epochs": 3, "per_class": 20, "val_per_class": 10, "batch_size": 32}


@pytest.fixture
def base(store: MlflowClient) -> StageResult:
    """A small base on digits 0-4."""
    return train_base(TrainBaseParams(**BASE))


@pytest.fixture
def cnn_base(store: MlflowClient) -> StageResult:
    """A small CNN base on digits 0-6."""
    return train_base(TrainBaseParams(**CNN))


def params_of(store: MlflowClient, result: StageResult) -> dict[str, str]:
    return dict(store.get_run(result.run_id).data.params)


def tags_of(store: MlflowClient, result: StageResult) -> dict[str, str]:
    return dict(store.get_run(result.run_id).data.tags)


def test_all_base_references_resolve_to_the_same_model(base: StageResult, store: MlflowClient) -> None:
    train_base(TrainBaseParams(**BASE, register_as="digits-base"))
    registered = [load_base(store, name) for name in ("models:/digits-base@best", "models:/digits-base/1")]
    named = [load_base(store, name) for name in (base.model_uri, base.run_id, f"runs:/{base.run_id}/model")]
    assert {found.model_uri for found in named} == {base.model_uri}
    assert len({found.model_uri for found in registered}) == 1
    assert len({found.digest for found in (*named, *registered)}) == 1


def test_run_records_base_lineage(base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    result = transfer(TransferParams(**QUICK))
    run = store.get_run(result.run_id)
    ancestry = f"base {base.model_uri} of run {base.run_id} (train_base, digits 0-4)"
    assert run.data.tags[names.ANCESTRY] == ancestry and ancestry in caplog.text
    assert run.data.tags[names.BASE_RUN_ID] == base.run_id
    assert run.data.tags[names.BASE_MODEL_URI] == base.model_uri == run.data.params["base"]
    assert f"Base: {ancestry.removeprefix('base ')}." in run.data.tags[names.NOTE]
    assert [f"models:/{item.model_id}" for item in run.inputs.model_inputs] == [base.model_uri]
    assert run.data.params["reuse_layers"] == "3" and run.data.params["upper"] == "drop"
    report = json.loads(Path(store.download_artifacts(result.run_id, names.LOAD_REPORT)).read_text())
    assert len(report["matched"]) == 6 and report["fresh"] == ["head.bias", "head.weight"] == report["dropped"]


def test_missing_base_is_trained_first(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "pipeline.stages.base_selection.TrainBaseParams", lambda **more: TrainBaseParams(**{**BASE, **more})
    )
    made = store.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)  # as under `mlflow run`
    first = transfer(TransferParams(**QUICK, reuse_layers=2))
    assert "training one first, on classes 0-4" in caplog.text
    assert first.run_id == made.info.run_id
    base_run = store.get_run(tags_of(store, first)[names.BASE_RUN_ID])
    assert base_run.info.run_id != made.info.run_id and base_run.data.params["classes"] == "0-4"
    assert names.PARENT_RUN_ID not in base_run.data.tags
    second = transfer(TransferParams(**QUICK, reuse_layers=2))
    assert tags_of(store, second)[names.BASE_RUN_ID] == base_run.info.run_id
    assert len(store.search_runs(["0"])) == 3


def test_invalid_parameters_train_no_base(store: MlflowClient) -> None:
    wrongs = (
        ({"per_class": 5000}, "per_class=5000: class 5 of digits has 142 training images"),
        ({"reuse_layers": 9}, "reuse_layers=9: must be between 0 and 5 .the base has 5 blocks"),
        ({"classes": "0-8"}, "classes=0-8: leaves 1 classes of digits for a base"),
        ({"batch_size": 100_000}, "batch_size=100000: must be at most the number of training images, 100"),
        ({"unfreeze": 6}, "unfreeze=6: must be between 0 and 5 .only 5 layers are reused"),
        ({"unfreeze": 5, "features": "auto"}, "features=auto: no block is frozen"),
        ({"features": "a" * 32}, "features=a*: cannot be read"),
    )
    for wrong, message in wrongs:
        with pytest.raises(UserInputError, match=message):
            transfer(TransferParams(**{**QUICK, **wrong}))
    with pytest.raises(UserInputError, match="depth=9: must be between 1 and 5 .the base has 5 blocks"):
        cache_features(CacheFeaturesParams(dataset="digits", depth=9))
    assert store.search_runs(["0"]) == []


def test_auto_skips_incompatible_bases(base: StageResult, cnn_base: StageResult, store: MlflowClient) -> None:
    overlapping = train_base(TrainBaseParams(**{**BASE, "classes": "3-7"}))
    result = transfer(TransferParams(**QUICK))
    assert tags_of(store, result)[names.BASE_RUN_ID] == base.run_id
    store.delete_run(base.run_id)
    chosen = transfer(TransferParams(**{**QUICK, "classes": "0,1", "reuse_layers": 1}))
    assert tags_of(store, chosen)[names.BASE_RUN_ID] == overlapping.run_id


def test_base_with_same_classes_keeps_head_and_label_sample(
    base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    first = transfer(TransferParams(**QUICK, seed=3))
    second = transfer(TransferParams(dataset="digits", epochs=3, base=first.run_id, unfreeze=2))
    assert "its training continues, with its head and its label sample" in caplog.text
    assert f"test accuracy vs. the base (run {first.run_id})" in capsys.readouterr().out
    runs = [load_base(store, result.run_id) for result in (first, second)]
    assert torch.equal(runs[0].train_ids, runs[1].train_ids)
    assert torch.equal(runs[0].val_ids, runs[1].val_ids)
    assert params_of(store, second)["per_class"] == "20" and params_of(store, second)["val_per_class"] == "10"
    assert torch.equal(runs[0].network.blocks[0][1].weight, runs[1].network.blocks[0][1].weight)
    assert not torch.equal(runs[0].network.head.weight, runs[1].network.head.weight)


def test_partial_reuse_with_same_classes_inherits_label_sample(base: StageResult, store: MlflowClient) -> None:
    first = transfer(TransferParams(**QUICK, seed=3))
    part = transfer(TransferParams(dataset="digits", epochs=2, base=first.run_id, reuse_layers=2))
    assert params_of(store, part)["per_class"] == "20" and params_of(store, part)["batch_size"] == "20"
    whole = train_base(TrainBaseParams(**{**BASE, "classes": "5-9"}))
    part = transfer(TransferParams(dataset="digits", epochs=1, base=whole.run_id, reuse_layers=2))
    assert params_of(store, part)["per_class"] == "all" and params_of(store, part)["batch_size"] == "128"


def test_printed_next_command_is_valid(
    base: StageResult, cnn_base: StageResult, capsys: pytest.CaptureFixture[str]
) -> None:
    def next_words() -> list[str]:
        return capsys.readouterr().out.split("next: python -m pipeline ")[-1].splitlines()[0].split()

    def dry(words: list[str]) -> StageResult:
        raw = {name.removeprefix("--"): value for name, value in zip(words[1::2], words[2::2], strict=True)}
        stages = {"transfer": transfer, "finetune_cnn": finetune_cnn}
        return stages[words[0]](parse_params(ENTRY_POINTS[words[0]], {**raw, "dry_run": True, "dataset": "digits"}))

    transfer(TransferParams(**{**QUICK, "classes": "5-8"}))
    assert dry(next_words()).run_id == ""
    for depth in (1, "all"):
        cache_features(CacheFeaturesParams(dataset="digits", depth=depth, classes="6-9"))
        assert dry(next_words()).run_id == ""
    cache_features(CacheFeaturesParams(dataset="digits", depth=1, base=cnn_base.run_id, classes="7-9"))
    assert dry(next_words()).run_id == ""


def test_validation_has_no_training_images_of_the_base(base: StageResult, store: MlflowClient) -> None:
    first = transfer(TransferParams(**{**QUICK, "per_class": 60}, seed=3))
    other = transfer(TransferParams(**QUICK, base=first.run_id, seed=4))
    bases = [load_base(store, result.run_id) for result in (first, other)]
    assert len(bases[1].val_ids) == 50 and not torch.isin(bases[1].val_ids, bases[0].seen_ids).any()
    assert torch.isin(torch.cat([bases[0].train_ids, bases[1].train_ids]), bases[1].seen_ids).all()
    larger = transfer(TransferParams(**{**QUICK, "per_class": 70}, base=first.run_id, seed=3))
    assert params_of(store, larger)["per_class"] == "70"


def test_overlapping_classes_are_warned_about_and_tagged(
    base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    result = transfer(TransferParams(**QUICK, base=base.run_id, classes="3-7"))
    assert "the base was already trained on target classes 3, 4" in caplog.text
    assert tags_of(store, result)[names.CLASS_OVERLAP] == "3,4"


def test_cached_training_matches_uncached_and_logs_costs(base: StageResult, store: MlflowClient) -> None:
    plain = transfer(TransferParams(**QUICK))
    computed = transfer(TransferParams(**QUICK, features="auto"))
    found = transfer(TransferParams(**QUICK, features="auto"))
    cached = cache_features(CacheFeaturesParams(dataset="digits"))
    named = transfer(TransferParams(**QUICK, features=cached.run_id, seed=0))
    losses = [
        [point.value for point in store.get_metric_history(result.run_id, "val/loss")]
        for result in (plain, computed, found, named)
    ]
    assert len(losses[0]) == 3
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-6)
    for name in (names.FEATURES_SECONDS, names.BREAK_EVEN_EPOCHS, names.FEATURES_SAVED_SECONDS):
        assert computed.metrics[name] > 0
    assert [item.path for item in store.list_artifacts(computed.run_id, "features")] == [
        "features/features.safetensors"
    ]
    assert store.list_artifacts(found.run_id, "features") == []
    other_draw = {**QUICK, "per_class": 40, "seed": 5}
    uncached, cached = (transfer(TransferParams(**other_draw, **more)) for more in ({}, {"features": cached.run_id}))
    assert cached.metrics["test/loss"] == pytest.approx(uncached.metrics["test/loss"], rel=1e-6)
    assert cached.metrics["test/loss"] != pytest.approx(plain.metrics["test/loss"], rel=1e-2)


def test_features_are_cached_after_the_frozen_blocks(base: StageResult) -> None:
    plain = transfer(TransferParams(**{**QUICK, "epochs": 1}, unfreeze=1))
    cached = transfer(TransferParams(**{**QUICK, "epochs": 1}, unfreeze=1, features="auto"))
    assert cached.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-5)


def test_mismatched_features_error_names_the_difference(base: StageResult) -> None:
    cut = cache_features(CacheFeaturesParams(dataset="digits", depth=2))
    with pytest.raises(UserInputError, match="computed from other inputs: cut, weights"):
        transfer(TransferParams(**QUICK, features=cut.run_id))
    classes = cache_features(CacheFeaturesParams(dataset="digits", classes="5-8"))
    with pytest.raises(UserInputError, match="computed from other inputs: data"):
        transfer(TransferParams(**QUICK, features=classes.run_id))
    other = train_base(TrainBaseParams(**{**BASE, "seed": 1}))
    weights = cache_features(CacheFeaturesParams(dataset="digits", base=other.run_id))
    with pytest.raises(UserInputError, match="computed from other inputs: weights"):
        transfer(TransferParams(**QUICK, base=base.run_id, features=weights.run_id))
    with pytest.raises(UserInputError, match="has no features"):
        transfer(TransferParams(**QUICK, features=base.run_id))
    with pytest.raises(UserInputError, match="no block is frozen"):
        transfer(TransferParams(**QUICK, unfreeze=3, features="auto"))


def model_files(store: MlflowClient, result: StageResult) -> Path:
    location = store.get_logged_model(result.model_uri.removeprefix("models:/")).artifact_location
    return Path(str(location).removeprefix("file://"))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (names.WEIGHTS_FILE, lambda p: p.write_bytes(p.read_bytes()[:-50]), "damaged"),
        (names.WEIGHTS_FILE, lambda p: p.write_bytes(b""), "damaged"),
        (
            names.ARCHITECTURE_FILE,
            lambda p: p.write_text(p.read_text().replace("16", "17")),
            "damaged file .* expected",
        ),
        (names.ARCHITECTURE_FILE, lambda p: p.write_text(p.read_text().replace("16", "1000000000")), "width"),
        (names.ARCHITECTURE_FILE, lambda p: p.unlink(), "no architecture.json"),
        (names.IDENTITIES_FILE, lambda p: p.write_bytes(b"nonsense"), "damaged"),
    ],
)
def test_damaged_model_files_are_rejected(
    base: StageResult, store: MlflowClient, file: str, damage, message: str
) -> None:  # type: ignore[no-untyped-def]
    damage(model_files(store, base) / names.EXTRA_FILES / file)
    with pytest.raises(UserInputError, match=f"base={base.model_uri}.*{message}"):
        transfer(TransferParams(**QUICK, base=base.model_uri))


@pytest.mark.parametrize("what", ["classes", "dropout", "draw"])
def test_altered_architecture_or_label_sample_is_rejected(base: StageResult, store: MlflowClient, what: str) -> None:
    folder = model_files(store, base) / names.EXTRA_FILES
    if what == "draw":
        draw = safetensors.torch.load_file(folder / names.IDENTITIES_FILE)
        draw["train"] = draw["train"][:5]
        safetensors.torch.save_file(draw, folder / names.IDENTITIES_FILE)
    else:
        description = json.loads((folder / names.ARCHITECTURE_FILE).read_text())
        description |= {"classes": ["5", "6", "7", "8", "9"]} if what == "classes" else {"dropout": 0.5}
        (folder / names.ARCHITECTURE_FILE).write_text(json.dumps(description))
    with pytest.raises(UserInputError, match="altered: its files"):
        transfer(TransferParams(**QUICK, base=base.model_uri))


def test_auto_skips_bases_with_missing_files(
    base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    newer = train_base(TrainBaseParams(**BASE, seed=1))
    cached = transfer(TransferParams(**QUICK, base=base.run_id, features="auto"))
    (model_files(store, newer) / names.EXTRA_FILES / names.WEIGHTS_FILE).unlink()
    result = transfer(TransferParams(**QUICK))
    assert tags_of(store, result)[names.BASE_RUN_ID] == base.run_id
    assert "skipped: " in caplog.text
    path = (
        Path(store.get_run(cached.run_id).info.artifact_uri.removeprefix("file://")) / "features/features.safetensors"
    )
    path.write_bytes(path.read_bytes()[:-9])
    again = transfer(TransferParams(**QUICK, features="auto"))
    assert [item.path for item in store.list_artifacts(again.run_id, "features")] == ["features/features.safetensors"]


def test_auto_warns_of_a_base_far_below_the_best(
    base: StageResult, store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    transfer(TransferParams(**QUICK, dry_run=True))
    accuracy = 100 * base.metrics[names.TEST_ACCURACY]
    assert f"with other classes, test accuracy {accuracy:.2f} %" in caplog.text and "WARNING" not in caplog.text
    worse = train_base(TrainBaseParams(**{**BASE, "epochs": 1, "learning_rate": 1e-6}))
    transfer(TransferParams(**QUICK, dry_run=True))
    (warning,) = [record.message for record in caplog.records if record.message.startswith("the newest base")]
    assert worse.model_uri in warning and f"{base.model_uri} of run {base.run_id} has {accuracy:.2f} %" in warning


def test_auto_picks_a_base_with_enough_layers(base: StageResult, store: MlflowClient) -> None:
    deep = train_base(TrainBaseParams(**{**BASE, "hidden_layers": 7}))
    train_base(TrainBaseParams(**{**BASE, "hidden_layers": 1}))
    chosen = transfer(TransferParams(**QUICK, reuse_layers=6))
    assert tags_of(store, chosen)[names.BASE_RUN_ID] == deep.run_id
    chosen = transfer(TransferParams(**QUICK, unfreeze=3))
    assert tags_of(store, chosen)[names.BASE_RUN_ID] == deep.run_id


def test_budget_depends_on_requested_labels_not_class_balance(cnn_base: StageResult, tmp_path: Path) -> None:
    """Equal class counts do not mean that labels were limited."""
    from PIL import Image

    draw = generator(0, "images")
    for name in "abcdef":
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(25):
            pixels = torch.randint(0, 256, (28, 28), generator=draw, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    result = scratch_cnn(ScratchCnnParams(dataset=f"folder:{tmp_path}/images", classes="3-5", epochs=1))
    logged = MlflowClient().get_run(result.run_id).data.params
    assert (logged["per_class"], logged["patience"], logged["weight_decay"]) == ("all", "6", "0.0001")


def test_validation_has_no_training_images_of_any_ancestor(base: StageResult, store: MlflowClient) -> None:
    first = transfer(TransferParams(**{**QUICK, "per_class": 60, "val_per_class": 20}, seed=3))
    second = transfer(TransferParams(dataset="digits", epochs=2, base=first.run_id, unfreeze=1))
    third = transfer(
        TransferParams(dataset="digits", epochs=2, base=second.run_id, val_per_class=60, per_class=20, seed=8)
    )
    oldest, newest = (load_base(store, result.run_id) for result in (first, third))
    assert not torch.isin(newest.val_ids, oldest.train_ids).any()
    with pytest.raises(UserInputError, match="val_per_class=90: class 5 of digits has 82 validation images that"):
        transfer(TransferParams(dataset="digits", base=second.run_id, val_per_class=90, per_class=20))


@pytest.mark.parametrize("stage", ["transfer", "cache_features", "finetune_cnn", "scratch_cnn"])
def test_dry_run_prints_resolved_configuration_and_creates_no_run(
    base: StageResult, cnn_base: StageResult, store: MlflowClient, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = {
        "transfer": lambda: transfer(TransferParams(**QUICK, dry_run=True)),
        "cache_features": lambda: cache_features(CacheFeaturesParams(dataset="digits", dry_run=True)),
        "finetune_cnn": lambda: finetune_cnn(FinetuneCnnParams(dataset="digits", dry_run=True)),
        "scratch_cnn": lambda: scratch_cnn(ScratchCnnParams(dataset="digits", dry_run=True)),
    }
    before = len(store.search_runs(["0"]))
    assert calls[stage]().run_id == ""
    out = capsys.readouterr().out
    assert f'"base": "{(cnn_base if "cnn" in stage else base).model_uri}"' in out and '"dataset": "digits"' in out
    assert len(store.search_runs(["0"])) == before
    with pytest.raises(UserInputError, match="features="):
        transfer(TransferParams(**QUICK, features="b" * 32, dry_run=True))


def test_altered_weights_are_rejected(base: StageResult, store: MlflowClient) -> None:
    path = model_files(store, base) / names.EXTRA_FILES / names.WEIGHTS_FILE
    tensors = safetensors.torch.load_file(path)
    tensors["head.bias"][0] += 0.5
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserInputError, match="altered: its files"):
        transfer(TransferParams(**QUICK, base=base.model_uri))


class Malicious:
    """Creates the file `mark` when unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


def test_pickle_in_model_folder_is_not_executed(base: StageResult, store: MlflowClient, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    folder = model_files(store, base)
    bomb = pickle.dumps(Malicious(mark))
    for name in ("model.pth", "data/model.pth", "data/pickle_module_info.txt", "extra_files/weights.pkl", "model.pkl"):
        (folder / name).write_bytes(bomb)
    transfer(TransferParams(**QUICK, base=base.model_uri))
    assert not mark.exists()
    (folder / names.EXTRA_FILES / names.WEIGHTS_FILE).write_bytes(bomb)
    with pytest.raises(UserInputError, match="damaged"):
        transfer(TransferParams(**QUICK, base=base.model_uri))
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()  # the bomb does work


def test_incompatible_bases_are_rejected(base: StageResult, cnn_base: StageResult, store: MlflowClient) -> None:
    cases = [
        ({"base": "models:/m-" + "0" * 32}, "not found: "),
        ({"base": "models:/nobody@best"}, "not found: "),
        ({"base": "f" * 32}, "not found: "),
        ({"base": cnn_base.run_id, "reuse_layers": 1}, "a CNN that was built here keeps its 3 blocks"),
        ({"base": base.run_id, "reuse_layers": 4}, "the base has 3 blocks"),
        ({"base": base.run_id, "unfreeze": 4}, "only 3 layers are reused"),
        ({"per_class": 150}, r"class 5 of digits has \d+ training images, 10 of them for validation"),
    ]
    before = len(store.search_runs(["0"]))
    for wrong, message in cases:
        with pytest.raises(UserInputError, match=message):
            transfer(TransferParams(**{**QUICK, **wrong}))
    assert len(store.search_runs(["0"])) == before


def test_foreign_model_is_rejected(store: MlflowClient, base: StageResult) -> None:
    foreign = store.create_logged_model("0", name="theirs")
    store.finalize_logged_model(foreign.model_id, "READY")
    with pytest.raises(UserInputError, match="not a model of this project"):
        transfer(TransferParams(**QUICK, base=f"models:/{foreign.model_id}"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": "32"}, "image_size=32: the base has image_size=28. Leave it out, or choose another base"),
        ({"channels": "3"}, "channels=3: the base has channels=1"),
        ({"mean": "0.5"}, "mean=0.5: the base has mean=none"),
        ({"std": "measured"}, "std=measured: the base has std=none"),
    ],
)
def test_preprocessing_other_than_that_of_the_base_is_rejected(
    base: StageResult, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(UserInputError, match=message):
        transfer(TransferParams(**QUICK, base=base.run_id, **wrong))


def test_same_seed_gives_all_arms_the_same_images(base: StageResult, store: MlflowClient) -> None:
    arms = [transfer(TransferParams(**QUICK, **arm)) for arm in ({}, {"unfreeze": 3}, {"reuse_layers": 0})]
    digests = [sorted(item.dataset.digest for item in store.get_run(arm.run_id).inputs.dataset_inputs) for arm in arms]
    assert digests[0] == digests[1] == digests[2]
    small, large = (load_base(store, transfer(TransferParams(**{**QUICK, "per_class": n})).run_id) for n in (10, 30))
    assert set(small.train_ids.tolist()) < set(large.train_ids.tolist())
    assert torch.equal(small.val_ids, large.val_ids)


def test_finetune_cnn_trains_only_unfrozen_blocks(cnn_base: StageResult, store: MlflowClient) -> None:
    result = finetune_cnn(FinetuneCnnParams(dataset="digits", epochs=2, frozen=1, intermediate=1, batch_size=64))
    before, after = load_base(store, cnn_base.run_id).network, load_base(store, result.run_id).network
    assert after.architecture.model_copy(update={"classes": before.architecture.classes}) == before.architecture
    pairs = [
        (name, torch.equal(value, after.state_dict()[name]))
        for name, value in before.state_dict().items() if not name.startswith("head")
    ]  # fmt: skip
    fresh = build_network(after.architecture, generator(0, "weights")).state_dict()
    seeds = [torch.equal(value, fresh[name]) for name, value in after.state_dict().items()]
    assert not any(seeds[-4:])  # the dense block and the head were initialized randomly, then trained
    assert all(same for name, same in pairs if name.startswith("blocks.0."))
    assert not any(same for name, same in pairs if name.startswith("blocks.1.0.weight"))
    assert len(pairs) > 8
    assert 0 < result.metrics[names.TRAINABLE_SHARE] < 1


def test_cached_cnn_finetuning_matches_in_first_epoch(cnn_base: StageResult) -> None:
    quick = {"dataset": "digits", "epochs": 1, "batch_size": 64, "dtype": "float32"}
    plain = finetune_cnn(FinetuneCnnParams(**quick))
    cached = finetune_cnn(FinetuneCnnParams(**quick, features="auto"))
    assert cached.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-4)


def test_scratch_uses_only_the_base_architecture(cnn_base: StageResult, store: MlflowClient) -> None:
    result = scratch_cnn(ScratchCnnParams(dataset="digits", epochs=2, batch_size=64))
    found = load_base(store, result.run_id).network.architecture
    base = load_base(store, cnn_base.run_id).network.architecture
    assert found.model_copy(update={"classes": base.classes}) == base
    assert params_of(store, result)["per_class"] == "all"
    assert result.metrics[names.TRAINABLE_SHARE] == 1


def test_scratch_without_base_trains_no_base(store: MlflowClient) -> None:
    scratch_cnn(ScratchCnnParams(dataset="digits", epochs=1))
    assert len(store.search_runs(["0"])) == 1


def test_invalid_finetune_cnn_parameters_are_rejected(base: StageResult, cnn_base: StageResult) -> None:
    cases = [
        ({"frozen": 2, "intermediate": 2}, "the base has 3 blocks"),
        ({"base": base.run_id}, "its family is mlp"),
        ({"per_class": 200}, "class 7 of digits has"),
        ({"batch_size": 5000, "per_class": 10}, "batch_size=5000: must be at most the number of training images, 30"),
        ({"base": cnn_base.run_id, "classes": "5-9"}, "the base was already trained on 5, 6"),
        ({"batch_size": 1, "per_class": 10}, "batch_size=1: the base has batch norm"),
    ]
    for wrong, message in cases:
        with pytest.raises(UserInputError, match=message):
            finetune_cnn(FinetuneCnnParams(**{"dataset": "digits", "epochs": 1, **wrong}))


def test_seeded_cnn_run_reproduces_golden_losses(store: MlflowClient) -> None:
    """Computed by this call on x86-64 with torch 2.13; a refactoring must not change them."""
    result = train_base(TrainBaseParams(**CNN, dtype="float32", threads=1))
    losses = [point.value for point in store.get_metric_history(result.run_id, "train/loss")]
    assert losses == pytest.approx(GOLDEN_CNN_LOSSES, rel=1e-3)


GOLDEN_CNN_LOSSES = [1.7041918806407763, 1.2784689664840698]


def test_scratch_cache_hit_depends_only_on_base_architecture(store: MlflowClient, base: StageResult) -> None:
    parent = store.create_run("0").info.run_id
    plan_context = PlanContext(parent)
    others = train_base(TrainBaseParams(**{**BASE, "seed": 1})), train_base(TrainBaseParams(**BASE, batch_norm=True))
    runs = [
        transfer(TransferParams(**QUICK, base=candidate.model_uri, reuse_layers=0), plan_context=plan_context)
        for candidate in (base, *others)
    ]
    assert runs[1].reused and runs[1].run_id == runs[0].run_id  # other weights, of which none is used
    assert not runs[2].reused and runs[2].run_id != runs[0].run_id
    assert "architecture changed" in plan_context.why


def test_cached_step_registers_its_model_once(store: MlflowClient, base: StageResult) -> None:
    plan_context = PlanContext(store.create_run("0").info.run_id)
    target = transfer(TransferParams(**QUICK))
    for _ in range(2):
        again = (
            train_base(TrainBaseParams(**BASE, register_as="a base"), plan_context=plan_context),
            transfer(TransferParams(**QUICK, register_as="a target"), plan_context=plan_context),
        )
        assert [result.reused for result in again] == [True, True]
    for name, made in (("a base", base), ("a target", target)):
        assert [version.run_id for version in store.search_model_versions(f"name = '{name}'")] == [made.run_id]
        best = store.get_model_version_by_alias(name, "best")
        assert float(best.tags[names.VAL_FINAL_ACCURACY]) == made.metrics[names.VAL_FINAL_ACCURACY]


def test_run_names_of_arms_differ_within_14_characters(
    store: MlflowClient, base: StageResult, no_figures: None
) -> None:
    fit = {"base": base.model_uri, "epochs": 1, "per_class": 10}
    arms = ({"reuse_layers": 0}, {"reuse_layers": 1}, {"reuse_layers": 2}, {"unfreeze": 1}, {"seed": 1})
    run_names = [store.get_run(transfer(TransferParams(**fit, **arm)).run_id).info.run_name for arm in arms]
    assert len({name[:14] for name in run_names}) == len(arms), run_names
    assert run_names[0] == "scratch s0: transfer 5-9, 10/class, seed 0"
