"""Images that are read per batch: parity with images in memory, bounded chunks, features, folds, augmented training."""

from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.data.examples import Examples
from pipeline.data.identity import content_ids
from pipeline.data.records import Images
from pipeline.data.stratified import stratified_folds
from pipeline.errors import UserInputError
from pipeline.networks.build import build_network, weights_digest
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, LayeredNetwork, MLPArchitecture
from pipeline.params import FinetuneCnnParams, TrainBaseParams, TransferParams, TuneParams, parse_params
from pipeline.runtime import generator
from pipeline.stages.train_base import train_base
from pipeline.stages.tune import tune
from pipeline.training import batches, chunks, evaluate, features, inputs
from pipeline.training.batches import scaling, shuffled_batches
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.features import Features, compute_features
from pipeline.training.inputs import model_inputs
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled
from pipeline.tuning.objective import score_fold
from pipeline.tuning.shared_examples import SharedExamples, share_examples
from pipeline.tuning.workers import start_forkserver
from tests.conftest import preprocessing
from tests.test_tuning import QUICK, InProcess

SETTINGS = FitSettings(
    epochs=4, patience=4, batch_size=16, learning_rate=0.01, weight_decay=1e-4, seed=3, weight_averaging=0.9
)
CPU = torch.device("cpu")
SHAPE = (3, 8, 8)
CLASSES = ("a", "b", "c")
LAYERS = (ConvolutionLayer(channels=4, kernel=3, pool=True),)
ARCHITECTURES = [
    MLPArchitecture(preprocessing=preprocessing(*SHAPE), classes=CLASSES, hidden_layers=2, width=8),
    MLPArchitecture(
        preprocessing=preprocessing(*SHAPE), classes=CLASSES, hidden_layers=2, width=8, batch_norm=True, dropout=0.2
    ),
    CNNArchitecture(
        preprocessing=preprocessing(*SHAPE), classes=CLASSES, convolutions=LAYERS, dense_width=8, dropout=0.1
    ),
]


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    """Every other image of a memory-mapped file."""
    labels = torch.arange(120) % 3
    noise = torch.randint(0, 150, (120, *SHAPE), generator=generator(0, "pixels"))
    pixels = (noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    (tmp_path / "images").write_bytes(pixels.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "images"), shared=True, size=pixels.numel(), dtype=torch.uint8).view(
        pixels.shape
    )
    images = Images(mapped, labels, content_ids(pixels))
    rows = torch.arange(0, 120, 2)
    return Examples(images, rows, labels[rows])


def network_of(architecture: MLPArchitecture | CNNArchitecture) -> LayeredNetwork:
    return build_network(architecture, generator(1, "weights"))


def stored(examples: Examples) -> Labelled:
    return Labelled(examples.images.pixels, examples.labels, examples.rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_images_train_bit_identically_to_images_in_memory(
    architecture: MLPArchitecture | CNNArchitecture, examples: Examples
) -> None:
    fits = []
    for in_memory in (True, False):
        network = network_of(architecture)
        data = model_inputs(network, examples) if in_memory else stored(examples)
        assert (data.rows is None) == in_memory
        fits.append(Fit(network, data, data, settings=SETTINGS))
        assert len(list(fits[-1])) == 4
    digests = {weights_digest(fit.network.state_dict()) for fit in fits}
    curves = [[(record.train_loss, record.val_loss) for record in fit.history] for fit in fits]
    assert len(digests) == 1 and curves[0] == curves[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_images_are_evaluated_like_images_in_memory(
    architecture: MLPArchitecture | CNNArchitecture, examples: Examples
) -> None:
    network = network_of(architecture)
    one, other = (evaluate.evaluate(network, data) for data in (model_inputs(network, examples), stored(examples)))
    assert one.loss == other.loss and torch.equal(one.probabilities_NK, other.probabilities_NK)
    assert torch.equal(one.confusion_KK, other.confusion_KK) and int(one.confusion_KK.sum()) == 60


@pytest.mark.parametrize("size", [1, 7, 59, 60, 61])
def test_evaluation_does_not_depend_on_the_chunks(
    size: int, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(ARCHITECTURES[2])
    whole = evaluate.evaluate(network, stored(examples))
    monkeypatch.setattr(evaluate, "chunk_size", lambda *_: size)
    found = evaluate.evaluate(network, stored(examples))
    assert found.loss == pytest.approx(whole.loss, rel=1e-6) and torch.equal(found.confusion_KK, whole.confusion_KK)
    assert torch.allclose(found.probabilities_NK, whole.probabilities_NK, atol=1e-6)


def test_probabilities_are_left_out_on_request(examples: Examples) -> None:
    network = network_of(ARCHITECTURES[0])
    found = evaluate.evaluate(network, stored(examples), probabilities=False)
    assert found.probabilities_NK.shape == (0, 3) and int(found.confusion_KK.sum()) == 60


@given(rows=st.lists(st.integers(0, 29), min_size=1, max_size=40), batch_size=st.integers(1, 20), data=st.data())
def test_batches_hold_the_rows_of_their_labels(rows: list[int], batch_size: int, data: st.DataObject) -> None:
    values = torch.arange(30, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 3, 3).contiguous()
    labelled = Labelled(values, torch.tensor(rows), torch.tensor(rows))
    seen = []
    seed = data.draw(st.integers(0, 9))
    for part, labels in shuffled_batches(labelled, batch_size, generator(seed, "order")):
        assert part.dtype == torch.uint8 and torch.equal(part[:, 1, 2, 2].long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == sorted(rows)
    in_order = [int(value) for part, _ in batches.chunks(labelled, batch_size) for value in part[:, 0, 0, 0]]
    assert in_order == rows


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_default_networks_evaluate_4096_small_images_at_once(model: str) -> None:
    architecture = architecture_from_params(TrainBaseParams(model=model), preprocessing(), tuple(map(str, range(10))))
    assert chunks.chunk_size(network_of(architecture), (1, 28, 28)) == chunks.MAX_CHUNK == 4096


def test_activation_bytes_match_hand_computation() -> None:
    """The batch norm after pooling is smaller than the convolution with its input."""
    network = network_of(ARCHITECTURES[2]).train()
    assert chunks.activation_bytes(network, SHAPE) == 4 * (4 * 6 * 6 + max(3 * 8 * 8, 4 * 3 * 3))
    assert chunks.activation_bytes(network, (36,), 1) == 4 * (36 + 36)  # flattening
    assert network.training and not any(module._forward_hooks for module in network.modules())


def test_large_images_are_evaluated_in_chunks_bounded_by_bytes() -> None:
    layers = (ConvolutionLayer(channels=64, kernel=7, stride=2), ConvolutionLayer(channels=8, kernel=3, stride=8))
    architecture = CNNArchitecture(preprocessing=preprocessing(3, 224, 224), classes=("a", "b"), convolutions=layers)
    network = network_of(architecture)
    size, single = chunks.chunk_size(network, (3, 224, 224)), chunks.activation_bytes(network, (3, 224, 224))
    assert single > 5_000_000 and size * single <= chunks.CHUNK_BYTES < (size + 1) * single


def test_large_data_are_read_per_batch(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(ARCHITECTURES[0])
    monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", 4 * 60 * 192)
    assert model_inputs(network, examples).rows is None
    augmented = model_inputs(network, examples, augment="flip")
    monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", 4 * 60 * 192 - 1)
    for data in (augmented, model_inputs(network, examples)):
        assert data.rows is not None and data.values.data_ptr() == examples.images.pixels.data_ptr()


def test_large_features_are_in_an_unnamed_file(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(ARCHITECTURES[2])
    expected = compute_features(network, 1, examples, folder=tmp_path).values
    monkeypatch.setattr(features, "IN_MEMORY_BYTES", expected.nbytes - 1)
    monkeypatch.setattr(features, "chunk_size", lambda *_: 7)
    found = compute_features(network, 1, examples, folder=tmp_path).values
    assert expected.shape == (60, 4, 3, 3) and torch.allclose(found, expected, atol=1e-6)
    assert "(deleted)" in next(
        line
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(tmp_path) in line and "images" not in line
    )
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_large_features_train_like_features_in_memory(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for limit in (2**20, 1):
        monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", limit)
        network = network_of(ARCHITECTURES[2])
        network.freeze(1)
        cached: Features = compute_features(network, 1, examples)
        data = model_inputs(network, examples, cached)
        assert (data.rows is None) == (limit > 1)
        list(Fit(network, data, data, settings=SETTINGS, start=1))
        digests.append(weights_digest(network.state_dict()))
    assert digests[0] == digests[1]


def test_only_training_images_are_augmented(examples: Examples) -> None:
    curves = []
    for augment in ("none", "flip", "crop_flip", "trivial"):
        fit = Fit(
            network_of(ARCHITECTURES[0]),
            stored(examples),
            stored(examples),
            settings=replace(SETTINGS, augment=augment),
        )
        before = fit.validate()
        assert before == fit.validate()
        curves.append((before, *(record.train_loss for record in fit)))
    assert len({curve[0] for curve in curves}) == 1 and len(set(curves)) == 4


def test_images_in_memory_cannot_be_augmented(examples: Examples) -> None:
    network = network_of(ARCHITECTURES[0])
    data = model_inputs(network, examples)
    with pytest.raises(AssertionError, match="read per batch"):
        Fit(network, data, data, settings=replace(SETTINGS, augment="flip"))


@pytest.mark.parametrize("augment", ["crop_flip", "trivial"])
@pytest.mark.parametrize("architecture", ARCHITECTURES[::2])
def test_resume_with_augmentation_is_bit_identical(
    architecture: MLPArchitecture | CNNArchitecture, augment: str, examples: Examples, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, augment=augment)
    folder = CheckpointFolder(tmp_path / "checkpoints")

    def new_fit() -> Fit:
        return Fit(network_of(architecture), stored(examples), stored(examples), settings=settings, checkpoints=folder)

    interrupted = new_fit()
    for record in interrupted:
        if record.epoch == 2:
            break
    interrupted.save_last()
    resumed = new_fit()
    newest = folder.newest()
    assert newest is not None
    resumed.restore(newest)
    assert [record.epoch for record in resumed] == [3, 4]
    whole = new_fit()
    list(whole)
    assert weights_digest(resumed.network.state_dict()) == weights_digest(whole.network.state_dict())


def send_sum(shared: SharedExamples, pipe: Connection) -> None:
    """Process target: send the sum of the training images."""
    data = shared.labelled()
    values = data.values if data.rows is None else data.values[data.rows]
    pipe.send((str(values.dtype), float(values.double().sum()), data.labels.tolist()))


@pytest.mark.parametrize("kind", ["scaled", "file", "pixels"])
def test_worker_process_gets_the_training_images(
    kind: str, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "pixels":
        examples = Examples(
            replace(examples.images, pixels=examples.images.pixels.clone()), examples.rows, examples.labels
        )
    if kind != "scaled":
        monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", 1)
    shared = share_examples(network_of(ARCHITECTURES[0]), examples, "none")
    ours, theirs = multiprocessing.Pipe()
    with shared.tensors.file:
        process = start_forkserver().Process(target=send_sum, args=(shared, theirs))
        process.start()
        dtype, total, labels = ours.recv()
        process.join()
    pixels = float(examples.pixels.double().sum())
    assert labels == examples.labels.tolist()
    assert (dtype, total) == (
        ("torch.float32", pytest.approx(pixels / 255)) if kind == "scaled" else ("torch.uint8", pixels)
    )


def test_stored_images_are_pickled_as_their_path(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", 1)
    shared = share_examples(network_of(ARCHITECTURES[0]), examples, "none")
    text = pickle.dumps(shared.file)
    assert len(text) < 1000 and torch.equal(pickle.loads(text).open(), examples.images.pixels)
    with shared.tensors.file:
        assert sum(tensor.nbytes for tensor in shared.tensors.tensors) == 2 * 60 * 8  # labels and rows


def test_folds_of_stored_images_score_like_folds_in_memory(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    folds, network = stratified_folds(examples.labels, examples.ids, folds=3, seed=0), network_of(ARCHITECTURES[2])
    scores = []
    for limit in (2**20, 1):
        monkeypatch.setattr(inputs, "IN_MEMORY_BYTES", limit)
        shared = share_examples(network, examples, "none")
        with shared.tensors.file:
            data = shared.labelled()
            assert (data.rows is None) == (limit > 1)
            metrics = [
                score_fold(network.architecture, SETTINGS, data, ids=examples.ids, held_out=fold, number=number,
                           val_fraction=0.2, device=CPU)
                for number, fold in enumerate(folds, 1)
            ]  # fmt: skip
            scores.append([(fold["fold/loss"], fold["fold/accuracy"]) for fold in metrics])
    assert len(scores[0]) == 3 and scores[0] == scores[1]


@pytest.mark.usefixtures("no_figures")
def test_trials_and_refit_are_augmented(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.tune_search.Workers", InProcess)
    used: list[str] = []
    plain = Fit._preparation

    def spy(fit: Fit, epoch: int) -> batches.Prepare:
        used.append(fit.settings.augment)
        return plain(fit, epoch)

    monkeypatch.setattr(Fit, "_preparation", spy)
    result = tune(TuneParams(**QUICK, trials=1, study="flipped", augment="flip"))
    assert set(used) == {"flip"} and len(used) > 6
    assert store.get_run(result.run_id).data.params["augment"] == "flip"


@pytest.mark.usefixtures("no_figures")
def test_digits_are_not_augmented_by_default(store: MlflowClient) -> None:
    result = train_base(TrainBaseParams(dataset="digits", epochs=1, hidden_layers=1, width=8))
    assert store.get_run(result.run_id).data.params["augment"] == "none"


@pytest.mark.parametrize("kind", [TransferParams, FinetuneCnnParams])
@pytest.mark.parametrize("features_from", ["auto", "a" * 32])
def test_augmentation_of_cached_features_is_rejected(kind: type, features_from: str) -> None:
    with pytest.raises(UserInputError, match=r"computed once, before augmentation \(augment=flip\)"):
        parse_params(kind, {"features": features_from, "augment": "flip"})
    assert parse_params(kind, {"features": features_from, "augment": "none"}).augment == "none"


def test_scaling_leaves_stored_pixels_unchanged(examples: Examples) -> None:
    before = examples.images.pixels.clone()
    network = network_of(ARCHITECTURES[0])
    data = stored(examples)
    for values, _ in shuffled_batches(data, 16, generator(0, "order"), prepare=scaling(network)):
        assert values.dtype == torch.float32 and 0 <= float(values.min()) <= float(values.max()) <= 1
    assert torch.equal(examples.images.pixels, before)
