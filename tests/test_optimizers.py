"""Optimizers, schedules, clipping and layer decay, against plain PyTorch loops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import UserInputError
from pipeline.networks.build import weights_digest
from pipeline.params import TrainBaseParams, TransferParams, TuneParams, parse_params
from pipeline.runtime import generator
from pipeline.stages.fit_summary import convergence
from pipeline.stages.transfer import transfer
from pipeline.training.batches import batch_count, shuffled_batches
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import Fit
from pipeline.training.optimizers import parameter_groups, rate_factor
from pipeline.training.records import FitSettings, Labelled
from tests.test_training import SETTINGS, convolutional, examples, network

PLAIN = {**SETTINGS.__dict__, "weight_averaging": 0.0, "patience": 99}
VARIANTS = [
    {"optimizer": "adamw", "weight_decay": 0.1},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.0, "clip_grad_norm": 0.5},
    {"schedule": "cosine"},
    {"schedule": "cosine", "warmup_epochs": 1.5},
    {"warmup_epochs": 2.0, "clip_grad_norm": 0.1},
]  # fmt: skip


def plain_optimizer(parameters: list[nn.Parameter], settings: FitSettings) -> torch.optim.Optimizer:
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum or 0.0, **options)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](parameters, **options)


def plain_losses(settings: FitSettings) -> list[float]:
    """Mean training loss per epoch of a loop with PyTorch's optimizers and schedulers."""
    net, data = network(), examples()
    optimizer = plain_optimizer(list(net.parameters()), settings)
    steps = batch_count(len(data), settings.batch_size)
    warmup, total = round(settings.warmup_epochs * steps), settings.epochs * steps
    schedulers, milestones = [], []
    if warmup:
        scheduler = torch.optim.lr_scheduler
        schedulers.append(scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(1, warmup - 1)))
        milestones.append(warmup)
    if settings.schedule == "cosine":
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup))
    else:
        schedulers.append(torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, milestones)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        total_loss = 0.0
        for values, labels in shuffled_batches(data, settings.batch_size, generator(settings.seed, "order", epoch)):
            loss = nn.functional.cross_entropy(net.logits(values), labels)
            optimizer.zero_grad()
            loss.backward()
            if settings.clip_grad_norm:
                nn.utils.clip_grad_norm_(net.parameters(), settings.clip_grad_norm)
            optimizer.step()
            schedule.step()
            total_loss += float(loss.detach()) * len(labels)
        losses.append(total_loss / len(data))
    return losses


@pytest.mark.parametrize("gradients", ["auto", "autograd"])
@pytest.mark.parametrize("changes", VARIANTS)
def test_fit_matches_plain_pytorch_loop(changes: dict[str, object], gradients: str) -> None:
    settings = FitSettings(**{**PLAIN, **changes, "gradients": gradients})
    fit = Fit(network(), examples(), examples(60, 1), settings=settings)
    losses = [record.train_loss for record in fit]
    assert fit.manual_backward == (gradients == "auto")
    assert losses == pytest.approx(plain_losses(settings), rel=1e-4) and len(losses) == 6


def test_each_setting_changes_the_result() -> None:
    losses = [plain_losses(FitSettings(**{**PLAIN, **changes}))[-1] for changes in [{}, *VARIANTS]]
    assert len({round(loss, 6) for loss in losses}) == len(losses)


@pytest.mark.parametrize("changes", [*VARIANTS, {"layer_decay": 0.5}])
@pytest.mark.parametrize("build", [network, convolutional])
def test_resume_with_schedule_is_bit_identical(changes: dict[str, object], build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    settings = FitSettings(**{**SETTINGS.__dict__, **changes, "epochs": 4})
    shape = build().architecture.image_shape
    labels = torch.arange(48) % 3
    data = Labelled(torch.randn(48, *shape, generator=generator(0, "images")), labels)
    whole = Fit(build(), data, data, settings=settings)
    list(whole)
    folder = CheckpointFolder(tmp_path)
    interrupted = Fit(build(), data, data, settings=settings, checkpoints=folder)
    for record in interrupted:
        if record.epoch == 2:
            break
    interrupted.save_last()
    resumed = Fit(build(), data, data, settings=settings, checkpoints=folder)
    newest = folder.newest()
    assert newest is not None
    resumed.restore(newest)
    assert len(list(resumed)) == 2
    assert weights_digest(resumed.network.state_dict()) == weights_digest(whole.network.state_dict())


@given(total=st.integers(1, 60), warmup=st.integers(0, 20), cosine=st.booleans())
def test_rate_rises_then_falls(total: int, warmup: int, cosine: bool) -> None:
    factors = [rate_factor(step, total=total, warmup=min(warmup, total), cosine=cosine) for step in range(total)]
    assert all(0 <= factor <= 1 for factor in factors)
    peak = min(warmup, total)
    assert factors[:peak] == sorted(factors[:peak]) and factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak == 0 or factors[peak - 1] == 1


def test_layer_decay_lowers_rates_towards_the_input() -> None:
    settings = FitSettings(**{**PLAIN, "layer_decay": 0.5, "copied_learning_rate_factor": 0.1})
    groups = parameter_groups(network(hidden_layers=3), settings, copied=2)
    found = [(sum(p.numel() for p in group.parameters), group.learning_rate) for group in groups]
    rates = [10 * 3 + 3, 0.01, 110, 0.01 * 0.5, 110, 0.001 * 0.25, 130, 0.001 * 0.125]  # head, blocks 3, 2 and 1
    assert [value for pair in found for value in pair] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainBaseParams, {"optimizer": "lion"}, "optimizer=lion: must be adam, adamw or sgd"),
        (TrainBaseParams, {"momentum": 0.9}, "momentum=0.9: .*Only optimizer=sgd uses momentum"),
        (TrainBaseParams, {"epochs": 5, "warmup_epochs": 5}, "warmup_epochs=5: .*fewer than the 5 epochs"),
        (TransferParams, {"epochs": 5, "warmup_epochs": 7}, "warmup_epochs=7"),
        (TuneParams, {"fold_epochs": 3, "warmup_epochs": 4}, "fold_epochs=3: .*more than warmup_epochs=4"),
        (TrainBaseParams, {"clip_grad_norm": -1}, "clip_grad_norm=-1"),
        (TransferParams, {"schedule": "cosin"}, "schedule=cosin"),
    ],
)  # fmt: skip
def test_bad_optimizer_settings_are_rejected(kind, values: dict[str, object], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserInputError, match=message):
        parse_params(kind, values)


def test_momentum_is_logged_for_sgd_only() -> None:
    assert TrainBaseParams(optimizer="sgd").momentum == 0.9
    assert "momentum" not in TrainBaseParams().logged()


def test_warmup_longer_than_default_epochs_is_rejected(store: object) -> None:
    with pytest.raises(UserInputError, match="warmup_epochs=400: must be fewer than the 400 epochs"):
        transfer(TransferParams(dataset="digits", reuse_layers=0, warmup_epochs=400, per_class=10))


def test_ended_schedule_has_converged_if_training_images_are_fitted() -> None:
    outcomes = {}
    for epochs in (2, 150):
        changes = {"schedule": "cosine", "epochs": epochs, "patience": 999, "learning_rate": 0.01, "weight_decay": 0.0}
        fit = Fit(network(), examples(), examples(), settings=FitSettings(**{**PLAIN, **changes}))
        losses = [record.train_loss for record in fit]
        outcomes[convergence(fit)] = losses[-1]
    assert list(outcomes) == ["no: the schedule ended before the training images were fitted", "yes"]
    assert outcomes["yes"] < 0.05
