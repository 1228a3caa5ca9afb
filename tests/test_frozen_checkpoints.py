"""Checkpoints of partly frozen networks: what they hold, and how they are resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.networks.build import build_network, weights_digest
from pipeline.runtime import generator
from pipeline.training.checkpoint import BEST, LAST, Checkpoint, CheckpointFolder, load_checkpoint, merge_groups
from pipeline.training.loop import FROZEN, Fit
from pipeline.training.trained_tensors import frozen_tensors
from tests.test_training import SETTINGS, examples, network

TRAINED = [set(), {2}, {1}, {0, 2}]


def frozen_fit(folder: Path, trained: set[int], *, seed: int = 1) -> Fit:
    """A fit of some of three blocks and the head, with weights drawn from a seed."""
    partly = build_network(network(hidden_layers=3, batch_norm=True).architecture, generator(seed, "weights"))
    partly.train_only(trained)
    settings = replace(SETTINGS, patience=100)
    return Fit(partly, examples(), examples(60, 1), settings=settings, checkpoints=CheckpointFolder(folder))


def interrupted_fit(folder: Path, trained: set[int]) -> tuple[Fit, Checkpoint]:
    """A fit that was interrupted after three of six epochs, and its checkpoint."""
    fit = frozen_fit(folder, trained)
    next(record for record in fit if record.epoch == 3)
    fit.save_last()
    return fit, load_checkpoint(folder / f"{LAST}.safetensors")


def assert_resumes_like_uninterrupted(checkpoint: Checkpoint, trained: set[int], folder: Path) -> None:
    whole = frozen_fit(folder / "whole", trained)
    assert [record.epoch for record in whole] == [1, 2, 3, 4, 5, 6]
    resumed = frozen_fit(folder / "resumed", trained)
    resumed.restore(checkpoint)
    assert [record.epoch for record in resumed] == [4, 5, 6]
    assert weights_digest(resumed.network.state_dict()) == weights_digest(whole.network.state_dict())
    assert [one.val_loss for one in resumed.history] == [one.val_loss for one in whole.history]


@pytest.mark.parametrize("trained", TRAINED)
def test_resume_with_frozen_blocks_is_bit_identical(trained: set[int], tmp_path: Path) -> None:
    _, checkpoint = interrupted_fit(tmp_path, trained)
    assert_resumes_like_uninterrupted(checkpoint, trained, tmp_path)


@pytest.mark.parametrize("trained", TRAINED)
def test_checkpoints_hold_only_tensors_that_move(trained: set[int], tmp_path: Path) -> None:
    fit, checkpoint = interrupted_fit(tmp_path, trained)
    blocks = tuple(f"blocks.{index}." for index in trained)
    moving = {name for name in fit.network.state_dict() if name.startswith(("head.", *blocks))}
    for group in ("weights", "best", "average"):
        assert checkpoint.group(group).keys() == moving
    assert load_checkpoint(tmp_path / f"{BEST}.safetensors").group("weights").keys() == moving


def test_checkpoint_of_the_previous_format_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, checkpoint = interrupted_fit(tmp_path, {1})
    frozen = [{name: t.clone() for name, t in frozen_tensors(fit.network).items()} for _ in range(3)]
    facts = {name: value for name, value in checkpoint.facts.items() if name != FROZEN}
    monkeypatch.setattr("pipeline.training.checkpoint.FORMAT", "1")
    more = merge_groups(weights=frozen[0], average=frozen[1], best=frozen[2])
    CheckpointFolder(tmp_path).save_last(Checkpoint({**checkpoint.tensors, **more}, facts))
    monkeypatch.undo()
    assert_resumes_like_uninterrupted(load_checkpoint(tmp_path / f"{LAST}.safetensors"), {1}, tmp_path)


def test_checkpoint_of_other_frozen_blocks_is_rejected(tmp_path: Path) -> None:
    _, checkpoint = interrupted_fit(tmp_path, {2})
    with pytest.raises(CheckpointError, match="frozen blocks are not those"):
        frozen_fit(tmp_path, {2}, seed=2).restore(checkpoint)


def test_checkpoint_without_a_trained_tensor_is_rejected(tmp_path: Path) -> None:
    _, checkpoint = interrupted_fit(tmp_path, {2})
    less = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "weights/head.bias"}
    with pytest.raises(CheckpointError, match=r"has no tensor head\.bias"):
        frozen_fit(tmp_path, {2}).restore(Checkpoint(less, checkpoint.facts))
