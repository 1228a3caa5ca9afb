"""Training: convergence, early stopping, reproducibility, resume from checkpoints, metrics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_fscore_support

from pipeline.errors import CheckpointError, NonFiniteLossError
from pipeline.networks.build import build_network, weights_digest
from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, LayeredNetwork, MLPArchitecture
from pipeline.runtime import generator
from pipeline.training import loop, manual_backward
from pipeline.training.batches import shuffled_batches
from pipeline.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    Checkpoint,
    CheckpointFolder,
    load_checkpoint,
    save_checkpoint,
)
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.flat_parameters import flatten_groups
from pipeline.training.loop import Fit
from pipeline.training.optimizers import FusedUpdate, ParameterGroup, build_optimizer, parameter_groups
from pipeline.training.records import FitSettings, Labelled
from tests import golden_losses
from tests.conftest import preprocessing

SETTINGS = FitSettings(
    epochs=6, patience=6, batch_size=16, learning_rate=0.01, weight_decay=1e-4, seed=3, weight_averaging=0.9
)
CLASSES = 3


def examples(count: int = 120, seed: int = 0) -> Labelled:
    """Points around three class centers."""
    draw = generator(seed, "points")
    labels = torch.arange(count) % CLASSES
    centers = 2 * torch.randn(CLASSES, 12, generator=generator(0, "centres"))  # the name is part of the seed
    return Labelled(centers[labels] + torch.randn(count, 12, generator=draw), labels)


def network(**changes: object) -> LayeredNetwork:
    values = {
        "preprocessing": preprocessing(1, 3, 4),
        "classes": ("0", "1", "2"),
        "hidden_layers": 2,
        "width": 10,
        **changes,
    }
    return build_network(MLPArchitecture.model_validate(values), generator(1, "weights"))


def fitted(changes: dict[str, object], checkpoints: CheckpointFolder | None = None, **settings: object) -> Fit:
    fit = Fit(
        network(**changes), examples(), examples(60, 1), settings=FitSettings(**{**SETTINGS.__dict__, **settings}),
        checkpoints=checkpoints,
    )  # fmt: skip
    assert [record.epoch for record in fit] == list(range(1, fit.progress.epoch + 1))
    return fit


VARIANTS = [{}, {"batch_norm": True}, {"dropout": 0.3}, {"batch_norm": True, "dropout": 0.3}]


@pytest.mark.parametrize("changes", VARIANTS)
def test_validation_loss_decreases(changes: dict[str, object]) -> None:
    fit = fitted(changes)
    assert fit.history[-1].val_loss < 0.7 * fit.history[0].val_loss
    assert fit.best_record.val_accuracy > 0.8


@pytest.mark.parametrize("changes", VARIANTS)
def test_same_seed_gives_bit_identical_weights(changes: dict[str, object]) -> None:
    first = fitted(changes)
    torch.rand(7)  # the global random state does not matter
    second = fitted(changes)
    assert weights_digest(first.network.state_dict()) == weights_digest(second.network.state_dict())
    assert weights_digest(fitted(changes, seed=4).network.state_dict()) != weights_digest(first.network.state_dict())


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_resume_from_checkpoint_is_bit_identical(changes: dict[str, object], averaging: float, tmp_path: Path) -> None:
    whole = fitted(changes, weight_averaging=averaging)
    folder = CheckpointFolder(tmp_path)
    interrupted = Fit(
        network(**changes), examples(), examples(60, 1),
        settings=FitSettings(**{**SETTINGS.__dict__, "weight_averaging": averaging}), checkpoints=folder,
    )  # fmt: skip
    for record in interrupted:
        if record.epoch == 3:
            break
    interrupted.save_last()
    resumed = Fit(
        network(**changes), examples(), examples(60, 1),
        settings=FitSettings(**{**SETTINGS.__dict__, "weight_averaging": averaging}), checkpoints=folder,
    )  # fmt: skip
    newest = folder.newest()
    assert newest is not None
    resumed.restore(newest)
    assert [record.epoch for record in resumed] == [4, 5, 6]
    assert weights_digest(resumed.network.state_dict()) == weights_digest(whole.network.state_dict())
    pairs = [
        (a.train_loss, a.val_loss, b.train_loss, b.val_loss)
        for a, b in zip(whole.history, resumed.history, strict=True)
    ]
    assert len(pairs) == 6 and all(pair[:2] == pair[2:] for pair in pairs)


def convolutional() -> LayeredNetwork:
    layers = [ConvolutionLayer(channels=4, kernel=3, stride=1, pool=False)] * 2
    shape = CNNArchitecture(
        preprocessing=preprocessing(1, 6, 6), classes=("0", "1", "2"), convolutions=tuple(layers), dense_width=8, batch_norm=True,
        dropout=0.1, dense_dropout=0.1,
    )  # fmt: skip
    return build_network(shape, generator(1, "weights"))


def test_cnn_resume_from_checkpoint_is_bit_identical(tmp_path: Path) -> None:
    """Their weights are channels-last in memory, which a checkpoint does not record."""
    images = torch.randn(48, 1, 6, 6, generator=generator(0, "images"))
    data = Labelled(images, torch.arange(48) % CLASSES)
    whole = Fit(convolutional(), data, data, settings=SETTINGS)
    list(whole)
    folder = CheckpointFolder(tmp_path)
    interrupted = Fit(convolutional(), data, data, settings=SETTINGS, checkpoints=folder)
    for record in interrupted:
        if record.epoch == 3:
            break
    interrupted.save_last()
    resumed = Fit(convolutional(), data, data, settings=SETTINGS, checkpoints=folder)
    newest = folder.newest()
    assert newest is not None
    resumed.restore(newest)
    assert len(list(resumed)) == 3
    assert weights_digest(resumed.network.state_dict()) == weights_digest(whole.network.state_dict())


def test_best_weights_are_restored() -> None:
    fit = fitted({}, learning_rate=0.3, epochs=12, patience=12, weight_averaging=0.0)
    losses = [record.val_loss for record in fit.history]
    assert fit.progress.best_epoch == losses.index(min(losses)) + 1 < len(losses)
    held = examples(60, 1)
    assert evaluate(fit.network, held).loss == pytest.approx(min(losses), rel=1e-5)


def test_training_stops_when_patience_runs_out() -> None:
    fit = fitted({}, learning_rate=0.3, epochs=200, patience=4, weight_averaging=0.0)
    assert fit.progress.epoch == fit.progress.best_epoch + 4 < 200
    assert fit.converged


def test_fit_stopped_by_epoch_cap_is_not_converged() -> None:
    fit = fitted({}, epochs=3)
    assert fit.finished and not fit.converged


@pytest.mark.parametrize("path", ["auto", "autograd"])
def test_default_mlp_reproduces_golden_losses(path: golden_losses.Path) -> None:
    fit = golden_losses.default_fit(path)
    assert fit.manual_backward == (path == "auto") and fit.flat
    assert golden_losses.losses(fit) == pytest.approx(golden_losses.GOLDEN[path], rel=1e-5)


def test_non_finite_loss_stops_training() -> None:
    fit = Fit(
        network(), examples(), examples(60, 1), settings=FitSettings(**{**SETTINGS.__dict__, "learning_rate": 10})
    )
    fit.train.values[5, 3] = math.inf
    with pytest.raises(NonFiniteLossError, match=r"the loss became nan in epoch 1 .*learning_rate"):
        list(fit)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("frozen", [1, 2])
def test_frozen_blocks_stay_bit_identical(changes: dict[str, object], frozen: int) -> None:
    net = network(**changes)
    net.freeze(frozen)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    list(Fit(net, examples(), examples(60, 1), settings=SETTINGS))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith(tuple(f"blocks.{k}." for k in range(frozen))) for name in moved)


def test_copied_blocks_have_their_own_learning_rate_and_decay() -> None:
    settings = FitSettings(**{**SETTINGS.__dict__, "copied_learning_rate_factor": 0.1, "copied_weight_decay": 0.5})
    fit = Fit(network(), examples(), examples(60, 1), settings=settings, copied=1)
    fresh, copied = fit.optimizer.param_groups
    assert (fresh["lr"], copied["lr"]) == (0.01, pytest.approx(0.001))
    assert (fresh["weight_decay"], copied["weight_decay"]) == (1e-4, 0.5)
    sizes = [sum(p.numel() for p in group["params"]) for group in (copied, fresh)]
    assert sizes == [12 * 10 + 10, 10 * 10 + 10 + 10 * 3 + 3]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_manual_backward_matches_autograd(frozen: int) -> None:
    """In float64, up to rounding, for every weight and bias."""
    nets = []
    for _ in range(2):
        net = network(hidden_layers=3)
        net.freeze(frozen)
        nets.append(net.double())
    data = examples()
    values, labels = data.values.double(), data.labels
    loss = torch.nn.functional.cross_entropy(nets[0].logits(values), labels)
    loss.backward()
    flats = [flat for group in flatten_groups(parameter_groups(nets[1], SETTINGS, 2)) for flat in group.parameters]
    found, _ = manual_backward.ManualBackwardStep(nets[1], lambda: None, start=0, after=lambda: None)(values, labels)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-12)
    theirs = [p.grad.flatten() for group in parameter_groups(nets[0], SETTINGS, 2) for p in group.parameters]
    mine = torch.cat([flat.grad for flat in flats])
    assert len(theirs) == 2 * (4 - frozen)
    assert torch.allclose(mine, torch.cat(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("changed", [{}, {"dropout": 0.3}, {"batch_norm": True}])
@pytest.mark.parametrize("frozen", [0, 1])
def test_flat_parameters_train_like_separate_ones(
    changed: dict[str, object], frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    for flat in (True, False):
        net = network(hidden_layers=2, **changed)
        net.freeze(frozen)
        monkeypatch.setattr(loop, "supports_flattening", lambda _, flat=flat: flat)
        settings = FitSettings(**{**SETTINGS.__dict__, "gradients": "autograd", "weight_averaging": 0.9, "epochs": 3})
        fits.append(Fit(net, examples(), examples(60, 1), settings=settings, copied=frozen))
        list(fits[-1])
    curves = [[loss for r in fit.history for loss in (r.train_loss, r.val_loss)] for fit in fits]
    assert len(curves[0]) == 6 and curves[0] == pytest.approx(curves[1], rel=1e-3)  # ends of vectors round otherwise


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_fused_update_equals_optimizer_step(kind: str) -> None:
    found = []
    for direct in (True, False):
        torch.manual_seed(0)
        weights = [torch.randn(7, 5), torch.randn(5)]
        groups = [ParameterGroup([weights[0]], 0.01, 0.1), ParameterGroup([weights[1]], 0.005, 0.3)]
        optimizer = build_optimizer(groups, FitSettings(**{**SETTINGS.__dict__, "optimizer": kind}))
        assert isinstance(optimizer, torch.optim.Adam)
        update = FusedUpdate(optimizer) if direct else optimizer.step
        for step in range(5):
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)  # as a schedule does
            update()
        state = [optimizer.state[weight][name] for weight in weights for name in ("step", "exp_avg", "exp_avg_sq")]
        found.append([*weights, *state])
    assert len(found[0]) == 8 and all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("copied", [0, 1])
def test_manual_and_autograd_training_agree(copied: int) -> None:
    changed = {"copied_learning_rate_factor": 0.5, "copied_weight_decay": 0.01, "epochs": 2}
    fits = []
    for gradients in ("auto", "autograd"):
        settings = FitSettings(**{**SETTINGS.__dict__, **changed, "gradients": gradients})
        fits.append(Fit(network(), examples(), examples(60, 1), settings=settings, copied=copied))
        list(fits[-1])
    assert fits[0].manual_backward and not fits[1].manual_backward
    for mine, theirs in zip(fits[0].history, fits[1].history, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert mine.val_loss == pytest.approx(theirs.val_loss, rel=1e-4)


def test_manual_backward_supports_only_plain_blocks() -> None:
    assert manual_backward.supports(network())
    assert not manual_backward.supports(network(dropout=0.1)) and not manual_backward.supports(network(batch_norm=True))
    above = network(dropout=0.1, batch_norm=True)
    above.freeze(2)
    assert manual_backward.supports(above)  # only the head is trained
    settings = FitSettings(**{**SETTINGS.__dict__, "train_dtype": torch.bfloat16})
    assert not Fit(
        network(), examples(), examples(60, 1), settings=settings
    ).manual_backward  # bfloat16 is not dropped silently


@given(count=st.integers(1, 70), batch_size=st.integers(1, 80))
def test_every_example_is_in_exactly_one_batch(count: int, batch_size: int) -> None:
    data = Labelled(torch.arange(count, dtype=torch.float32).unsqueeze(1), torch.arange(count))
    seen: list[int] = []
    sizes = []
    for values, labels in shuffled_batches(data, batch_size, generator(0, "order")):
        assert values.flatten().tolist() == labels.tolist()
        seen += labels.tolist()
        sizes.append(len(labels))
    assert sorted(seen) == list(range(count))
    assert max(sizes) <= batch_size + 1 and (batch_size == 1 or len(sizes) == 1 or min(sizes) > 1)


@settings(max_examples=50)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40), seed=st.integers(0, 999)
)
def test_metrics_match_scikit_learn(pairs: list[tuple[int, int]], seed: int) -> None:
    labels = torch.tensor([true for true, _ in pairs])
    logits = torch.randn(len(pairs), 4, generator=generator(seed, "logits"))
    net = network(classes=("0", "1", "2", "3"))
    net.logits = lambda values, start=0: values  # type: ignore[method-assign]
    found = evaluate(net, Labelled(logits, labels))
    predicted = logits.argmax(1)
    theirs = precision_recall_fscore_support(labels, predicted, labels=range(4), average="macro", zero_division=0)
    assert (found.precision, found.recall, found.f1) == pytest.approx(theirs[:3])
    assert found.accuracy == pytest.approx(float((predicted == labels).float().mean()))
    assert found.loss == pytest.approx(
        log_loss(labels, torch.softmax(logits.double(), 1), labels=range(4), normalize=True), rel=1e-6
    )


def test_metrics_match_hand_computation() -> None:
    """Two classes: 3 of 4 and 1 of 2 correct."""
    found = Evaluation(0.0, torch.empty(0), torch.tensor([[3, 1], [1, 1]]), torch.tensor([0, 0, 0, 1, 0, 1]))
    assert (found.accuracy, found.precision, found.recall) == pytest.approx((4 / 6, (3 / 4 + 1 / 2) / 2, 0.625))


def checkpoint(value: float = 1.0) -> Checkpoint:
    return Checkpoint({"weights/a": torch.full((40,), value)}, {"epoch": 3})


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", checkpoint(0.1))
    found = load_checkpoint(tmp_path / "x.safetensors")
    assert torch.equal(found.group("weights")["a"], torch.full((40,), 0.1)) and found.facts == {"epoch": 3}


@pytest.mark.parametrize("kind", ["truncated", "empty", "flipped", "missing", "pickle"])
def test_damaged_checkpoint_error_names_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint())
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "pickle":
        torch.save({"a": 1}, path)
    else:
        content[-3] ^= 16
        path.write_bytes({"truncated": content[:-30], "empty": b"", "flipped": content}[kind])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_checkpoint(path)


def test_previous_checkpoint_is_used_if_last_is_damaged(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() is None
    folder.save_last(checkpoint(1.0))
    folder.save_last(checkpoint(2.0))
    folder.path(LAST).write_bytes(b"torn")
    newest = folder.newest()
    assert newest is not None and float(newest.group("weights")["a"][0]) == 1.0
    folder.path(PREVIOUS).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="last"):
        folder.newest()


def test_checkpoint_folder_holds_only_the_fixed_names(tmp_path: Path) -> None:
    fitted({}, CheckpointFolder(tmp_path), checkpoint_every=2)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.safetensors" for name in (LAST, PREVIOUS, BEST)}
    best = load_checkpoint(tmp_path / f"{BEST}.safetensors")
    fit = fitted({})
    assert weights_digest(best.group("weights")) == weights_digest(fit.network.state_dict())


def test_full_disk_leaves_previous_checkpoint_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint(1.0))

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, checkpoint(2.0))
    assert float(load_checkpoint(path).group("weights")["a"][0]) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
