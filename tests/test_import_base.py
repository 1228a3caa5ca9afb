"""Networks from elsewhere as bases: imported, rebuilt, reused by every stage, and what is rejected."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from PIL import Image

from pipeline.data.sources.registry import load_dataset
from pipeline.errors import UserInputError
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.origins.load import model_source
from pipeline.params import (
    CacheFeaturesParams,
    FinetuneCnnParams,
    ImportBaseParams,
    MainParams,
    ResumeParams,
    ScratchCnnParams,
    StageParams,
    TrainBaseParams,
    TransferParams,
    TuneParams,
    parse_params,
)
from pipeline.prediction import predict
from pipeline.stages.cache_features import cache_features
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.import_base import import_base
from pipeline.stages.imported_network import without_duplicates
from pipeline.stages.main import main
from pipeline.stages.resume import resumed_parameters
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import Base, load_base
from pipeline.tracking.recovery.resume import InterruptedRun
from pipeline.tracking.stage_run import StageResult
from pipeline.trained_model import export
from tests.networks import SmallResNet, randomize
from tests.photos import write_photos

pytestmark = pytest.mark.usefixtures("no_figures")

OWN_CODE = """
from pathlib import Path
from torch import nn
from tests.networks import SmallResNet

Path(__file__).with_suffix(".ran").touch()

def small() -> nn.Module:
    return SmallResNet(num_classes=3)

def other() -> nn.Module:
    return SmallResNet(blocks=1, num_classes=3)

def many() -> nn.Module:
    return SmallResNet(num_classes=10_001)

def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, left, right):
            return left + right
    return Two()
"""
QUICK = {"epochs": 2, "per_class": 8, "val_per_class": 4, "batch_size": 8}
MakeFolder = Callable[[str, tuple[str, ...]], str]


@pytest.fixture
def photos(tmp_path: Path) -> MakeFolder:
    """Writes 24 noisy photos per class and returns the folder as a dataset."""
    return lambda name, classes: write_photos(tmp_path / name, classes)


@pytest.fixture
def code(tmp_path: Path) -> str:
    """A file with the user's code; `.ran` beside it shows that it ran."""
    (tmp_path / "nets.py").write_text(OWN_CODE)
    return f"own:{tmp_path / 'nets.py'}:small"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file as authors publish it: pickled, wrapped, with prefixes."""
    module = SmallResNet(num_classes=3)
    randomize(module, torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "small.th")
    return str(tmp_path / "small.th")


@pytest.fixture
def own_base(store: MlflowClient, code: str, weights: str) -> StageResult:
    """The user's network, imported without a dataset."""
    return import_base(ImportBaseParams(model=code, weights=weights, image_size="16", std="0.25"))


def read(store: MlflowClient, result: StageResult, artifact: str) -> str:
    return Path(store.download_artifacts(result.run_id, artifact)).read_text(encoding="utf-8")


def params_of(store: MlflowClient, result: StageResult) -> dict[str, str]:
    return dict(store.get_run(result.run_id).data.params)


def load_own(store: MlflowClient, result: StageResult, code: str) -> Base:
    return load_base(store, result.run_id, model_source(code))


def moved_parts(base: LayeredNetwork, trained: LayeredNetwork) -> set[str]:
    """Return the blocks in which some weight or statistic differs."""
    state = base.state_dict()
    changed = [name for name, value in trained.state_dict().items() if not torch.equal(value, state[name])]
    return {name.split(".")[1] for name in changed if name.startswith("blocks.")}


def test_import_logs_weights_provenance_and_accuracy(
    store: MlflowClient, code: str, weights: str, photos: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "LICENSE").write_text("do what you like")
    dataset = photos("known", ("ants", "bees", "flies"))
    result = import_base(
        ImportBaseParams(
            model=code, weights=weights, dataset=dataset, classes="flies,bees,ants", license=str(tmp_path / "LICENSE")
        )
    )
    count = len(SmallResNet().state_dict())
    assert f"loaded {count} tensors" in caplog.text and "unwrapped state_dict, prefix module." in caplog.text
    assert "leakage cannot be checked" in caplog.text and "mean and std are measured" in caplog.text
    provenance = json.loads(read(store, result, names.PROVENANCE))
    assert provenance["license"] == "do what you like" and len(provenance["weights_file_sha256"]) == 64
    assert read(store, result, names.OWN_SOURCE) == OWN_CODE
    assert len(json.loads(read(store, result, names.LOAD_REPORT))["matched"]) == count
    base = load_own(store, result, code)
    assert base.classes == ("flies", "bees", "ants") and base.dataset == dataset and not len(base.seen_ids)
    assert result.metrics[names.TEST_ACCURACY] == pytest.approx(expected_accuracy(base.network, dataset))


def expected_accuracy(network: LayeredNetwork, name: str) -> float:
    """Return the accuracy on a dataset's test split, by class names."""
    dataset = load_dataset(name, "data", geometry=network.architecture.preprocessing.geometry)
    with torch.no_grad():
        predicted = network(dataset.test.pixels[dataset.test.pixel_rows]).argmax(1)
    words = [network.architecture.classes[output] for output in predicted.tolist()]
    labels = [dataset.class_names[label] for label in dataset.test.labels.tolist()]
    return sum(word == label for word, label in zip(words, labels, strict=True)) / len(labels)


def test_own_network_is_exported_and_used_with_its_code(
    store: MlflowClient, code: str, weights: str, tmp_path: Path
) -> None:
    params = ImportBaseParams(model=code, weights=weights, image_size="16", std="0.25", export=False)
    uri = import_base(params).model_uri
    (tmp_path / "nets.ran").unlink()
    with pytest.raises(UserInputError, match=r"is user code.*predict and export: --code"):
        export(uri)
    assert not (tmp_path / "nets.ran").exists()
    export(uri, code)
    image = tmp_path / "gray.png"
    Image.new("RGB", (20, 20), (90, 90, 90)).save(image)
    (one,) = predict(uri, [image], output=tmp_path / "out.csv", code=code)
    served = mlflow.pyfunc.load_model(uri).predict(np.full((1, 3, 16, 16), 90, np.float32))
    assert np.allclose(one.probabilities, served[0], atol=1e-5)


def test_code_must_be_own_code(store: MlflowClient, own_base: StageResult) -> None:
    with pytest.raises(UserInputError, match=r"code=nets.py:small: must be own:PATH.py:FUNCTION"):
        export(own_base.model_uri, "nets.py:small")


def test_own_code_runs_only_if_named_again(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder, tmp_path: Path
) -> None:
    (tmp_path / "nets.ran").unlink()
    params = {"base": own_base.model_uri, "dataset": photos("new", ("x", "y")), **QUICK}
    with pytest.raises(UserInputError, match="is user code.*model=own:PATH.py:small"):
        transfer(TransferParams(**params))
    assert not (tmp_path / "nets.ran").exists()
    with pytest.raises(UserInputError, match="is not the function that defined the base"):
        transfer(TransferParams(**params, model=code.replace(":small", ":other")))
    (tmp_path / "nets.py").write_text(OWN_CODE + "\n# changed")
    with pytest.raises(UserInputError, match="its digest differs"):
        transfer(TransferParams(**params, model=code))
    assert len(store.search_runs(["0"])) == 1


def test_cache_keys_distinguish_code_and_preprocessing(
    store: MlflowClient, own_base: StageResult, code: str, weights: str, tmp_path: Path
) -> None:
    scaled = import_base(ImportBaseParams(model=code, weights=weights, image_size="16", std="0.5"))
    bases = [load_own(store, result, code) for result in (own_base, scaled)]
    (tmp_path / "nets.py").write_text(OWN_CODE + "\n# changed")
    changed = import_base(ImportBaseParams(model=code, weights=weights, image_size="16", std="0.25"))
    bases.append(load_own(store, changed, code))
    assert len({base.digest for base in bases}) == 1
    assert len({json.dumps(base.key_inputs) for base in bases}) == 3


def test_transfer_moves_exactly_the_blocks_named(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder
) -> None:
    dataset = photos("new", ("x", "y"))
    result = transfer(
        TransferParams(
            base=own_base.run_id, model=code, dataset=dataset, reuse_layers="layer3.0", unfreeze="layer2", **QUICK
        )
    )
    logged = params_of(store, result)
    assert (logged["reuse_layers"], logged["unfreeze"], logged["mean"], logged["std"]) == (
        "6",
        "3",
        "none",
        "0.25,0.25,0.25",
    )
    base, trained = load_own(store, own_base, code).network, load_own(store, result, code).network
    assert len(trained.blocks) == 6 and trained.architecture.classes == ("x", "y")
    assert moved_parts(base, trained) == {"3", "4", "5"}  # batch-norm statistics of frozen blocks included


def test_cached_features_give_the_same_result(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder
) -> None:
    named = {"base": own_base.model_uri, "model": code, "dataset": photos("new", ("x", "y"))}
    features = cache_features(CacheFeaturesParams(**named, depth=4))
    arms = [
        transfer(TransferParams(**named, **QUICK, reuse_layers=4, features=source))
        for source in ("none", features.run_id)
    ]
    first, second = (load_own(store, arm, code).network.state_dict() for arm in arms)
    for name, value in first.items():
        assert float((value - second[name]).abs().max()) <= 1e-5 * float(value.abs().max().clamp(min=1e-12)), name


def test_every_stage_reuses_an_imported_network(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder
) -> None:
    named = {"base": own_base.model_uri, "model": code, "dataset": photos("new", ("x", "y")), **QUICK}
    tuned = finetune_cnn(FinetuneCnnParams(**named, frozen=2, intermediate=3))
    scratch = scratch_cnn(ScratchCnnParams(**named))
    drawn_anew = transfer(TransferParams(**named, reuse_layers=0))
    base, first, second, third = (
        load_own(store, result, code).network for result in (own_base, tuned, scratch, drawn_anew)
    )
    assert moved_parts(base, first) == {"2", "3", "4", "5", "6"}
    assert moved_parts(base, second) == set("0123456") == moved_parts(base, third)
    assert isinstance(second.architecture, GraphArchitecture) and second.architecture.depth == 7


def test_imported_network_continues_on_its_own_classes(
    store: MlflowClient, code: str, weights: str, photos: MakeFolder
) -> None:
    dataset = photos("known", ("ants", "bees", "flies"))
    base = import_base(ImportBaseParams(model=code, weights=weights, dataset=dataset, std="0.25", mean="0.5"))
    result = transfer(TransferParams(base=base.model_uri, model=code, unfreeze=2, epochs=1, batch_size=8))
    architecture = load_own(store, result, code).network.architecture
    assert isinstance(architecture, GraphArchitecture) and architecture.head == "published"
    assert params_of(store, result)["per_class"] == "all"


@pytest.mark.parametrize("model", ["torchvision:shufflenet_v2_x0_5", "own"])
def test_library_and_own_networks_are_trained_from_scratch(
    store: MlflowClient, code: str, photos: MakeFolder, model: str
) -> None:
    model = code if model == "own" else model
    dataset = photos("known", ("ants", "bees", "flies"))
    params = TrainBaseParams(model=model, dataset=dataset, image_size="32", epochs=1, batch_size=16)
    assert params.batch_norm is None
    result = train_base(params)
    assert (names.OWN_SOURCE in {item.path for item in store.list_artifacts(result.run_id)}) == (model == code)
    base = load_base(store, result.run_id, model_source(code) if model == code else None)
    assert base.classes == ("ants", "bees", "flies") and base.stage == "train_base" and len(base.seen_ids)
    with pytest.raises(UserInputError, match="batch_size=1: .* has batch norm"):
        train_base(params.model_copy(update={"batch_size": 1}))


def test_batch_of_one_is_rejected_where_batch_norm_is_trained(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder
) -> None:
    named = {**QUICK, "base": own_base.model_uri, "model": code, "dataset": photos("new", ("x", "y")), "batch_size": 1}
    with pytest.raises(UserInputError, match="batch_size=1: the base has batch norm"):
        transfer(TransferParams(**named, unfreeze=1))
    assert transfer(TransferParams(**named)).model_uri


def test_published_network_is_imported_without_training(store: MlflowClient, photos: MakeFolder) -> None:
    result = import_base(ImportBaseParams(model="torchvision:squeezenet1_1", weights="none", image_size="64"))
    base = load_base(store, result.model_uri)
    assert len(base.classes) == 1000 and base.dataset == "none"
    assert base.network.architecture.preprocessing.mean == (0.485, 0.456, 0.406)
    with pytest.raises(UserInputError, match="dataset=auto: the base was imported without a dataset"):
        transfer(TransferParams(base=result.model_uri))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "torchvision:resnet81"}, "Did you mean resnet18"),
        ({"model": "{code}x"}, "has no function smallx. Did you mean small"),
        ({"model": "{folder}/none.py:f", "image_size": "16"}, "does not exist"),
        ({"weights": "{folder}/other.th"}, r"does not match the network: 44 tensors match; missing \(30\)"),
        ({"weights": "{folder}/cut.th"}, "truncated or not a PyTorch file"),
        ({"weights": "{folder}/cut.safetensors"}, "truncated or not a safetensors file"),
        ({"weights": "{folder}/none.th"}, "No such file"),
        ({"weights": "{folder}/whole.th"}, "the pickle contains code .* and was rejected; nothing in it was run"),
        ({"weights": "default"}, "has no published weights"),
        ({"classes": "0-6"}, "the network has 3 outputs, but 7 classes are given"),
        ({"image_size": "auto"}, "image_size: .* has no published preprocessing"),
        ({"std": "measured"}, "std=measured: there is no dataset to measure it on"),
        ({"license": "{folder}/none"}, "license=.*cannot be read"),
        ({"model": "{folder}/nets.py:two_inputs", "weights": "none"}, "forward .*two|inputs"),
        (
            {"model": "{folder}/nets.py:many", "weights": "none", "classes": "auto"},
            "has 10,001 outputs; at most 10,000 classes",
        ),
        ({"blocks": "layer9"}, "layer9"),
        ({"dataset": "{dataset}"}, "dataset=folder:.* has the class x, and the network has 0, 1, 2"),
    ],
)
def test_bad_input_is_rejected_before_a_run_exists(
    store: MlflowClient,
    code: str,
    weights: str,
    photos: MakeFolder,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    torch.save(SmallResNet(blocks=1, num_classes=3).state_dict(), tmp_path / "other.th")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.th")
    (tmp_path / "cut.th").write_bytes(Path(weights).read_bytes()[:1000])
    whole = safetensors.torch.save(SmallResNet(num_classes=3).state_dict())
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    places = {
        "code": code,
        "folder": f"own:{tmp_path}",
        "dataset": photos("new", ("x", "y")) if "dataset" in changes else "",
    }
    texts = {name: value.format(**places) for name, value in changes.items()}
    texts = {name: value if name == "model" else value.removeprefix("own:") for name, value in texts.items()}
    given = {"model": code, "weights": weights, "image_size": "16", "classes": "0-2", **texts}
    with pytest.raises(UserInputError, match=message):
        import_base(ImportBaseParams(**given))
    assert store.search_runs(["0"]) == []


def test_weights_for_other_classes_name_both_counts(store: MlflowClient, tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "thousand.pth")
    params = ImportBaseParams(
        model="torchvision:squeezenet1_1", weights=str(tmp_path / "thousand.pth"), classes="0-6", image_size="64"
    )
    with pytest.raises(UserInputError, match="the weights are for 1000 classes, but 7 classes are given"):
        import_base(params)


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (ImportBaseParams, {"model": "resnet18"}, "model=resnet18: must be torchvision:NAME"),
        (ImportBaseParams, {"model": "torchvision:resnet18", "dataset": "mnits"}, "Did you mean mnist"),
        (TrainBaseParams, {"model": "cmn"}, "model=cmn: must be mlp, cnn, torchvision:NAME.*Did you mean cnn"),
        (TrainBaseParams, {"model": "timm:resnet10t", "width": 8}, "Only valid with model=mlp"),
        (TuneParams, {"model": "torchvision:resnet18"}, "use train_base with tune_on_validation"),
        (TransferParams, {"model": "torchvision:resnet18"}, "must be empty, or own:PATH.py:FUNCTION"),
        (TransferParams, {"reuse_layers": "../x"}, "or the name of a block"),
    ],
)
def test_invalid_parameter_says_what_is_allowed(kind: type[StageParams], raw: dict[str, object], message: str) -> None:
    with pytest.raises(UserInputError, match=message.replace("(", r"\(").replace("..", r"\.\.")):
        parse_params(kind, raw)


@pytest.mark.parametrize(
    ("reuse", "message"),
    [
        ({"reuse_layers": "layer9"}, "reuse_layers=layer9: the network has no block.*Did you mean layer3\\? List them"),
        ({"reuse_layers": "layer1", "unfreeze": "layer3"}, "unfreeze=layer3: is above the 3 blocks"),
        ({"reuse_layers": 8}, "must be between 0 and 7"),
    ],
)
def test_unknown_blocks_are_rejected(
    store: MlflowClient, own_base: StageResult, code: str, photos: MakeFolder, reuse: dict[str, object], message: str
) -> None:
    params = TransferParams(base=own_base.model_uri, model=code, dataset=photos("new", ("x", "y")), **reuse, **QUICK)
    with pytest.raises(UserInputError, match=message):
        transfer(params)


def test_plan_with_own_code_is_rejected(store: MlflowClient, tmp_path: Path, code: str) -> None:
    plan = f"""
title: t
description: d
profiles: {{quick: {{seeds: 1}}}}
arms:
  base: {{run: train_base, params: {{model: "{code}"}}}}
"""
    (tmp_path / "p.yaml").write_text(plan)
    with pytest.raises(UserInputError, match="a plan never runs your own code"):
        main(MainParams(plan=str(tmp_path / "p.yaml")))
    assert not (tmp_path / "nets.ran").exists()


def test_resume_runs_own_code_only_if_named_again() -> None:
    run = InterruptedRun("f" * 32, "train_base", {"model": "own:stored.py:f", "seed": "3"}, inherits_labels=False)
    with pytest.raises(UserInputError, match="built by your own code, which has to be named again. Add model=own:"):
        resumed_parameters(run, ResumeParams(run_id=run.run_id))
    named = resumed_parameters(run, ResumeParams(run_id=run.run_id, model="own:mine.py:f"))
    assert (named["model"], named["seed"]) == ("own:mine.py:f", "3")


def test_published_names_become_unique() -> None:
    assert without_duplicates(["crane", "bee", "crane", "bee"]) == ("crane", "bee", "crane 2", "bee 2")


PUBLISHED = Path(os.environ.get("PIPELINE_PRETRAINED_DIR", "")) / "resnet.py"
CIFAR10 = Path(os.environ.get("PIPELINE_DATA_DIR", "")) / "cifar10-jpeg.tar.gz"


@pytest.mark.slow
@pytest.mark.timeout(900)  # decoding 10,000 images on a busy machine
@pytest.mark.skipif(not (PUBLISHED.is_file() and CIFAR10.is_file()), reason="published weights or CIFAR-10 are missing")
def test_published_resnet_has_its_known_accuracy(store: MlflowClient, tmp_path: Path) -> None:
    """81.0 % on CIFAR-10's test images as JPEG files, 91.8 % on the original ones."""
    wanted = [f"train/{name}/000{digit}.jpg" for name in CIFAR10_CLASSES for digit in range(10)]
    with tarfile.open(CIFAR10) as archive:
        for member in archive:
            if "/test/" in f"/{member.name}" or member.name.endswith(tuple(wanted)):
                archive.extract(member, tmp_path / "cifar10", filter="data")
    (folder,) = {path.parent for path in (tmp_path / "cifar10").glob("**/test")}
    result = import_base(
        ImportBaseParams(
            model=f"own:{PUBLISHED}:resnet20",
            weights=str(next(PUBLISHED.parent.glob("resnet20-*.th"))),
            dataset=f"folder:{folder}",
            mean="0.485,0.456,0.406",
            std="0.229,0.224,0.225",
        )
    )
    assert result.metrics[names.TEST_IMAGES] == 10_000
    assert 100 * result.metrics[names.TEST_ACCURACY] == pytest.approx(81.0, abs=0.3)


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_frozen_arms_share_pooled_features(
    own_base: StageResult, code: str, photos: MakeFolder, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {**QUICK, "base": own_base.model_uri, "model": code, "dataset": photos("cats", ("ant", "bee", "cat"))}
    plain = [transfer(TransferParams(**more, reuse_layers=cut)) for cut in (2, 5)]
    first = transfer(TransferParams(**more, reuse_layers=2, features="auto"))
    assert [item.path for item in store.list_artifacts(first.run_id, names.FEATURES)] == ["features/cuts.safetensors"]
    monkeypatch.setattr("pipeline.stages.feature_source.compute_cut_features", lambda *_: pytest.fail("computed again"))
    second = transfer(TransferParams(**more, reuse_layers=5, features="auto"))
    for cached, uncached in zip((first, second), plain, strict=True):
        assert cached.metrics["test/loss"] == pytest.approx(uncached.metrics["test/loss"], rel=1e-4)
    assert plain[0].metrics["test/loss"] != pytest.approx(plain[1].metrics["test/loss"], rel=1e-2)


def test_named_blocks_are_trained_and_others_stay_bit_identical(
    own_base: StageResult, code: str, photos: MakeFolder, store: MlflowClient
) -> None:
    more = {**QUICK, "base": own_base.model_uri, "model": code, "dataset": photos("dogs", ("ant", "bee", "dog"))}
    result = transfer(TransferParams(**more, train_blocks="layer2,conv1", strategy="lp_ft", layer_decay=0.5))
    before, after = (load_own(store, one, code).network for one in (own_base, result))
    chosen = [after.architecture.block_names.index(name) for name in ("conv1", "layer2.0", "layer2.1")]
    assert params_of(store, result)["train_blocks"] == ",".join(str(index + 1) for index in chosen)
    for index, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True)):
        moved = any(not torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
        assert moved == (index in chosen), index
