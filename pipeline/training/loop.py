"""Training with early stopping on validation loss; the network ends with its best weights.

Iterating a `Fit` trains it and yields one record per epoch. All randomness of an epoch is derived from (seed, epoch),
so on a CPU a fit resumed from a checkpoint is bit-identical to an uninterrupted one, without stored generator state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cached_property

import torch
from torch import Tensor

from pipeline.errors import CheckpointError, NonFiniteLossError
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.runtime import derive_seed, generator
from pipeline.training import manual_backward
from pipeline.training.augmentation import Augmentation
from pipeline.training.batches import Prepare, batch_count, chunks, run_epoch, scaling, shuffled_batches
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder, merge_groups
from pipeline.training.chunks import chunk_size
from pipeline.training.ema import WeightEMA
from pipeline.training.flat_parameters import flatten_groups, moving_tensors, supports_flattening, unflatten
from pipeline.training.optimizers import (
    FusedUpdate,
    ParameterGroup,
    ScheduledUpdate,
    Update,
    build_optimizer,
    parameter_groups,
)
from pipeline.training.records import EpochRecord, FitSettings, Labelled, Progress
from pipeline.training.steps import AutogradStep, EvaluationStep, Step
from pipeline.training.trained_tensors import frozen_tensors, load_trained, snapshot, trained_tensors

FROZEN = "frozen_digest"  # in a checkpoint: of the tensors that it does not hold


class Fit:
    """A training run of a network; iterate it to train.

    Args:
        network: On its device, with blocks frozen; trained in place, ends with its best weights.
        train: Training data.
        validation: Data that selects the best epoch and stops training.
        settings: Budget and optimizer.
        start: Depth of the inputs.
        copied: Number of copied blocks from the input, for `copied_learning_rate_factor`.
        checkpoints: Folder of the checkpoints; None saves none.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        train: Labelled,
        validation: Labelled,
        *,
        settings: FitSettings,
        start: int = 0,
        copied: int = 0,
        checkpoints: CheckpointFolder | None = None,
    ):
        assert start <= network.frozen, "training may start above frozen blocks only"
        assert settings.augment == "none" or train.rows is not None, "only images that are read per batch are augmented"
        self.network, self.train, self.validation, self.settings = network, train, validation, settings
        self.start, self.checkpoints = start, checkpoints
        self.progress = Progress()
        self.history: list[EpochRecord] = []
        self._rows: list[dict[str, float]] = []  # history as dictionaries, for checkpoints
        float32 = settings.train_dtype == torch.float32
        self.manual_backward = settings.gradients == "auto" and float32 and manual_backward.supports(network)
        self.flat = supports_flattening(network)
        groups = self._groups(network, copied)
        self.average = self._build_average(copied, groups)
        self.scored = self.average.network if self.average else network  # what is validated and saved
        self.optimizer = build_optimizer(groups, settings)
        self.schedule: ScheduledUpdate | None = None
        self._step = self._build_step(groups)
        self._chunk = chunk_size(network, validation.values.shape[1:], start)
        self.best_weights: dict[str, Tensor] = snapshot(network)  # of the trained blocks and the head
        self._at_epoch_end = self._checkpoint()
        self._best_saved_at = -math.inf

    def _groups(self, network: LayeredNetwork, copied: int) -> list[ParameterGroup]:
        groups = parameter_groups(network, self.settings, copied)
        return flatten_groups(groups) if self.flat else groups

    def _build_average(self, copied: int, groups: list[ParameterGroup]) -> WeightEMA | None:
        if not self.settings.weight_averaging:
            return None
        return WeightEMA(
            self.network,
            self.settings.weight_averaging,
            live=moving_tensors(self.network, groups),
            moving=lambda twin: moving_tensors(twin, self._groups(twin, copied)),
        )

    def _build_update(self) -> Update:
        settings, optimizer = self.settings, self.optimizer
        update: Update = FusedUpdate(optimizer) if isinstance(optimizer, torch.optim.Adam) else optimizer.step
        if settings.schedule == "constant" and not settings.warmup_epochs and not settings.clip_grad_norm:
            return update
        self.schedule = ScheduledUpdate(
            optimizer, update, settings, steps_per_epoch=batch_count(len(self.train), settings.batch_size)
        )
        return self.schedule

    def _build_step(self, groups: list[ParameterGroup]) -> Step:
        after = self.average.update if self.average else lambda: None
        update = self._build_update()
        if self.manual_backward:
            return manual_backward.ManualBackwardStep(self.network, update, start=self.start, after=after)
        flats = [flat for group in groups for flat in group.parameters] if self.flat else []
        gradients = [flat.grad for flat in flats if flat.grad is not None]
        return AutogradStep(
            self.network, update, gradients=gradients, start=self.start, autocast=self.settings.train_dtype, after=after
        )

    def __iter__(self) -> Iterator[EpochRecord]:
        """Train until the epoch cap or early stopping, then load the best weights.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        while not self.finished:
            record = self._one_epoch()
            self._save()
            yield record
        load_trained(self.network, self.best_weights)
        unflatten(self.network)
        self._save(at_end=True)

    @property
    def finished(self) -> bool:
        """Whether the epoch cap or early stopping has ended the fit."""
        return self.progress.epoch >= self.settings.epochs or self.converged

    @property
    def converged(self) -> bool:
        """Whether early stopping has ended the fit, rather than the epoch cap."""
        return self.progress.epoch - self.progress.best_epoch >= self.settings.patience

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train for one epoch and return mean loss and accuracy."""
        seed = self.settings.seed
        order = generator(seed, "order", epoch)
        batches = shuffled_batches(self.train, self.settings.batch_size, order, prepare=self._preparation(epoch))
        if not self.network.training:
            self.network.train()
        if self.schedule is not None:
            self.schedule.start_epoch(epoch)
        if self.manual_backward:  # nothing else in an epoch is random
            return run_epoch(batches, self._step, self.train.labels.device)
        device = self.train.labels.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            return run_epoch(batches, self._step, device)

    def _preparation(self, epoch: int) -> Prepare:
        """Return the function that augments and scales the images of an epoch."""
        if self.settings.augment == "none":
            return scaling(self.network)
        augment = Augmentation(self.settings.augment, len(self.train), seed=self.settings.seed, epoch=epoch)
        return lambda pixels, positions: self.network.scale(augment(pixels, positions))

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Return validation loss and accuracy, in evaluation mode and float32."""
        if self.scored.training:
            self.scored.eval()
        batches = chunks(self.validation, self._chunk, prepare=scaling(self.scored))
        return run_epoch(batches, EvaluationStep(self.scored, start=self.start), self.train.labels.device)

    def _one_epoch(self) -> EpochRecord:
        began = time.perf_counter()
        epoch = self.progress.epoch + 1
        train_loss, train_accuracy = self.train_epoch(epoch)
        epoch_seconds = time.perf_counter() - began
        val_loss, val_accuracy = self.validate()
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            loss = val_loss if math.isfinite(train_loss) else train_loss
            raise NonFiniteLossError(
                f"the loss became {loss} in epoch {epoch} (learning_rate={self.settings.learning_rate:g}): "
                "lower learning_rate"
            )
        is_best = val_loss < self.progress.best_loss
        record = EpochRecord(epoch, train_loss, train_accuracy, val_loss, val_accuracy, epoch_seconds, is_best)
        self._record(record)
        self.progress.fit_seconds += time.perf_counter() - began
        self._at_epoch_end = self._checkpoint()
        return record

    def _record(self, record: EpochRecord) -> None:
        """Update history and counters."""
        progress = self.progress
        progress.epoch = record.epoch
        progress.averaged_steps = self.average.steps if self.average else 0
        self.history.append(record)
        self._rows.append(asdict(record))
        if record.is_best:
            progress.best_epoch, progress.best_loss = record.epoch, record.val_loss
            self.best_weights = snapshot(self.scored)

    def _checkpoint(self) -> Checkpoint:
        """Return the state of the fit, without frozen tensors; tensors are copies."""
        state = self.optimizer.state_dict()["state"]
        optimizer = {
            f"{index}/{name}": value.clone() for index, slots in state.items() for name, value in slots.items()
        }
        average = snapshot(self.scored) if self.average else {}
        tensors = merge_groups(
            weights=snapshot(self.network), average=average, best=self.best_weights, optimizer=optimizer
        )
        return Checkpoint(tensors, {"progress": asdict(self.progress), "history": list(self._rows)})

    def _save(self, *, at_end: bool = False) -> None:
        """Write `last` every `checkpoint_every` epochs and at the end; write `best` with it, and when it is new.

        The first epochs all have new best weights: between checkpoints, they are written at most once per second.
        """
        if self.checkpoints is None:
            return
        due = at_end or self.progress.epoch % self.settings.checkpoint_every == 0
        is_new = self.progress.best_epoch == self.progress.epoch
        if due or (is_new and time.monotonic() - self._best_saved_at > 1):
            self._save_best()
        if due:
            self.save_last()

    def _save_best(self) -> None:
        assert self.checkpoints is not None
        facts = {"epoch": self.progress.best_epoch, FROZEN: self._frozen_digest}
        self.checkpoints.save_best(Checkpoint(merge_groups(weights=self.best_weights), facts))
        self._best_saved_at = time.monotonic()

    def save_last(self) -> None:
        """Write the state at the end of the last complete epoch; valid in the middle of an epoch too."""
        if self.checkpoints is not None:
            facts = {**self._at_epoch_end.facts, FROZEN: self._frozen_digest}
            self.checkpoints.save_last(Checkpoint(self._at_epoch_end.tensors, facts))
            self._save_best()

    @cached_property
    def _frozen_digest(self) -> str:
        """Digest of the tensors that the fit does not change; computed once, because a large network takes a second."""
        return weights_digest(frozen_tensors(self.network))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint of a fit with the same network, data and settings.

        Raises:
            CheckpointError: The frozen blocks are not those of the checkpoint.
        """
        if checkpoint.facts.get(FROZEN, self._frozen_digest) != self._frozen_digest:
            raise CheckpointError("the frozen blocks are not those that the checkpoint was saved with")
        load_trained(self.network, checkpoint.group("weights"))
        trained = trained_tensors(self.network)
        self.best_weights = {name: t for name, t in checkpoint.group("best").items() if name in trained}
        slots: dict[int, dict[str, Tensor]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in checkpoint.group("optimizer").items():
            index, _, slot = name.partition("/")
            if value.dim():  # the fused kernel needs the memory format of the weights (channels last)
                value = torch.empty_like(weights[int(index)]).copy_(value)
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.progress = Progress(**checkpoint.facts["progress"])
        if self.average:
            load_trained(self.scored, checkpoint.group("average"))
            self.average.steps = self.progress.averaged_steps
        names = {field.name for field in fields(EpochRecord)}
        self.history = [
            EpochRecord(**{k: v for k, v in row.items() if k in names}) for row in checkpoint.facts["history"]
        ]
        self._rows = list(checkpoint.facts["history"])
        self._at_epoch_end = checkpoint

    @property
    def best_record(self) -> EpochRecord:
        """The record of the epoch with the best weights."""
        return self.history[self.progress.best_epoch - 1]
