"""Training: epochs, early stopping on validation loss, the best weights at the end.

`Fit` is iterated; it yields one record an epoch and knows nothing of who takes them. Whatever an epoch draws at
random comes from (seed, epoch), so on a CPU a fit that resumes from a checkpoint is bit-identical to an uninterrupted
one, without any stored generator state.

Legend: N examples, B of them in a batch, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import NonFiniteLossError
from pipeline.networks.layered import LayeredNetwork
from pipeline.runtime import derive_seed, generator
from pipeline.training import manual_backward
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder, grouped
from pipeline.training.ema import WeightEMA
from pipeline.training.evaluate import CHUNK
from pipeline.training.flat_parameters import can_be_flat, flatten_trainable, moving_tensors, split_by_origin, unflatten
from pipeline.training.steps import AutogradStep, FusedUpdate, ScoringStep, Step, build_adam

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How to train; the fields mean what the parameters of the same name in `params.py` mean.

    Attributes:
        copied_learning_rate_factor: The learning rate of copied blocks, as a multiple of that of fresh ones.
        copied_weight_decay: Their weight decay; None takes `weight_decay`.
        train_dtype: `torch.bfloat16` trains under autocast; validation is always float32.
        gradients: `auto` takes the written-out ones of `explicit.py` where they apply.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    weight_averaging: float = 0.0
    checkpoint_every: int = 10
    copied_learning_rate_factor: float = 1.0
    copied_weight_decay: float | None = None
    train_dtype: torch.dtype = torch.float32
    gradients: Literal["auto", "autograd"] = "auto"

    def for_fold(self, epochs: int, patience: int) -> FitSettings:
        """Return these settings with the budget of one fold."""
        return replace(self, epochs=epochs, patience=patience)


@dataclass(frozen=True)
class Labelled:
    """What a fit reads, on the device it runs on.

    Attributes:
        values: Scaled pixels (N, C, H, W), or features (N, ...) at the depth where training starts.
        labels: int64 (N,), 0 to K-1.
    """

    values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch showed.

    Attributes:
        epoch: From 1.
        train_loss: Mean over the epoch's batches as they were trained on (dropout live), in nats.
        train_accuracy: Likewise.
        val_loss: In evaluation mode after the epoch, in nats.
        val_accuracy: Likewise.
        epoch_seconds: Wall-clock of the pass over the training data alone.
        is_best: Whether validation loss is the lowest so far.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    epoch_seconds: float
    is_best: bool


@dataclass
class Progress:
    """The counters of a fit, which checkpoints carry."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    averaged_steps: int = 0
    fit_seconds: float = 0.0


def run_epoch(batches: Iterable[Batch], step: Step, device: torch.device) -> tuple[float, float]:
    """Pass over some batches once, whatever the step does with them, and return mean loss and accuracy.

    Args:
        batches: Values (B, ...) and labels (B,).
        step: Trains on a batch, or scores it.
        device: Where they are.
    """
    precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    loss_sum, right = (torch.zeros((), dtype=kind, device=device) for kind in (precise, torch.int64))
    count = 0
    for values, labels in batches:
        loss, logits = step(values, labels)
        loss_sum.add_(loss, alpha=len(labels))
        right.add_((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss_sum.item() / count, right.item() / count  # the only waits for the device in an epoch


def shuffled_batches(data: Labelled, batch_size: int, order: torch.Generator) -> Iterator[Batch]:
    """Yield every example once, gathered into two buffers that are used again for each batch.

    A last batch of a single example would break batch norm: it joins the batch before it.
    """
    count, device = len(data.labels), data.labels.device
    places = torch.randperm(count, generator=order).to(device)
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], count]
    largest = max(end - begin for begin, end in zip(starts, ends, strict=True))
    values = torch.empty((largest, *data.values.shape[1:]), dtype=data.values.dtype, device=device)
    labels = torch.empty(largest, dtype=torch.int64, device=device)
    for begin, end in zip(starts, ends, strict=True):
        size, chosen = end - begin, places[begin:end]
        yield (
            torch.index_select(data.values, 0, chosen, out=values[:size]),
            torch.index_select(data.labels, 0, chosen, out=labels[:size]),
        )


def chunks(data: Labelled) -> Iterator[Batch]:
    """Yield every example once, in order, without copying."""
    yield from zip(torch.split(data.values, CHUNK), torch.split(data.labels, CHUNK), strict=True)


class Fit:
    """One training run of a network; iterate it to train.

    Args:
        network: On its device, frozen as wanted; trained in place, and left with its best weights.
        train: What to train on.
        validation: What decides when to stop and which epoch is best.
        settings: How.
        start: The depth at which `train.values` and `validation.values` enter.
        copied: How many of the first blocks are copies, for `copied_learning_rate_factor`.
        checkpoints: Where to keep checkpoints; None keeps none.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        train: Labelled,
        validation: Labelled,
        settings: FitSettings,
        *,
        start: int = 0,
        copied: int = 0,
        checkpoints: CheckpointFolder | None = None,
    ):
        assert start <= network.frozen, "values may enter above trainable blocks only if these are frozen"
        self.network, self.train, self.validation, self.settings = network, train, validation, settings
        self.start, self.checkpoints = start, checkpoints
        self.progress = Progress()
        self.history: list[EpochRecord] = []
        self._rows: list[dict[str, float]] = []  # the same for checkpoints, each made once
        wants_float32 = settings.train_dtype == torch.float32
        self.manual_backward = settings.gradients == "auto" and wants_float32 and manual_backward.supports(network)
        self.flat = can_be_flat(network)
        flats = flatten_trainable(network, copied) if self.flat else []
        self.average = self._build_average(copied, flats)
        self.scored = self.average.network if self.average else network  # what is validated and kept
        self.optimizer = build_adam(
            *(([flats[0]], flats[1:]) if flats else split_by_origin(network, copied)),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            copied_factor=settings.copied_learning_rate_factor,
            copied_decay=settings.copied_weight_decay,
        )
        self._step = self._build_step(flats)
        self.best_weights: dict[str, Tensor] = snapshot(network)
        self._at_epoch_end = self._checkpoint()
        self._best_saved_at = -math.inf

    def _build_average(self, copied: int, flats: list[Tensor]) -> WeightEMA | None:
        if not self.settings.weight_averaging:
            return None
        return WeightEMA(
            self.network,
            self.settings.weight_averaging,
            live=moving_tensors(self.network, flats),
            moving=lambda twin: moving_tensors(twin, flatten_trainable(twin, copied) if flats else []),
        )

    def _build_step(self, flats: list[Tensor]) -> Step:
        after = self.average.update if self.average else lambda: None
        update = FusedUpdate(self.optimizer)
        if self.manual_backward:
            return manual_backward.ManualBackwardStep(self.network, update, start=self.start, after=after)
        gradients = [flat.grad for flat in flats if flat.grad is not None]
        return AutogradStep(
            self.network, update, gradients=gradients, start=self.start, autocast=self.settings.train_dtype, after=after
        )

    def __iter__(self) -> Iterator[EpochRecord]:
        """Train until the epochs or the patience are used up, then put the best weights back.

        Raises:
            NonFiniteLossError: The loss became infinite or not a number.
        """
        while not self.finished:
            record = self._one_epoch()
            self._save()
            yield record
        self.network.load_state_dict(self.best_weights)
        unflatten(self.network)
        self._save(at_end=True)

    @property
    def finished(self) -> bool:
        """Whether the epochs or the patience are used up."""
        return self.progress.epoch >= self.settings.epochs or self.converged

    @property
    def converged(self) -> bool:
        """Whether the patience is used up; a fit that is finished without it was stopped by its epoch cap."""
        return self.progress.epoch - self.progress.best_epoch >= self.settings.patience

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train on every example once, in the order of that epoch, and return running loss and accuracy."""
        seed = self.settings.seed
        batches = shuffled_batches(self.train, self.settings.batch_size, generator(seed, "order", epoch))
        if not self.network.training:
            self.network.train()
        if self.manual_backward:  # nothing else in an epoch is random
            return run_epoch(batches, self._step, self.train.labels.device)
        device = self.train.labels.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            return run_epoch(batches, self._step, device)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation data, in evaluation mode and float32."""
        if self.scored.training:
            self.scored.eval()
        return run_epoch(chunks(self.validation), ScoringStep(self.scored, start=self.start), self.train.labels.device)

    def _one_epoch(self) -> EpochRecord:
        began = time.perf_counter()
        epoch = self.progress.epoch + 1
        train_loss, train_accuracy = self.train_epoch(epoch)
        epoch_seconds = time.perf_counter() - began
        val_loss, val_accuracy = self.validate()
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            bad = val_loss if math.isfinite(train_loss) else train_loss
            raise NonFiniteLossError(
                f"the loss became {bad} in epoch {epoch} (learning_rate={self.settings.learning_rate:g}): "
                "lower learning_rate"
            )
        is_best = val_loss < self.progress.best_loss
        record = EpochRecord(epoch, train_loss, train_accuracy, val_loss, val_accuracy, epoch_seconds, is_best)
        self._note(record)
        self.progress.fit_seconds += time.perf_counter() - began
        self._at_epoch_end = self._checkpoint()
        return record

    def _note(self, record: EpochRecord) -> None:
        """Take a finished epoch into the counters."""
        progress = self.progress
        progress.epoch = record.epoch
        progress.averaged_steps = self.average.steps if self.average else 0
        self.history.append(record)
        self._rows.append(asdict(record))
        if record.is_best:
            progress.best_epoch, progress.best_loss = record.epoch, record.val_loss
            self.best_weights = snapshot(self.scored)

    def _checkpoint(self) -> Checkpoint:
        """Return everything that the next epoch depends on; tensors are copies, safe from the next step."""
        state = self.optimizer.state_dict()["state"]
        optimizer = {
            f"{index}/{name}": value.clone() for index, slots in state.items() for name, value in slots.items()
        }
        average = snapshot(self.scored) if self.average else {}
        tensors = grouped(weights=snapshot(self.network), average=average, best=self.best_weights, optimizer=optimizer)
        return Checkpoint(tensors, {"progress": asdict(self.progress), "history": list(self._rows)})

    def _save(self, *, at_end: bool = False) -> None:
        """Write `last` every `checkpoint_every` epochs and at the end; `best` with it, and when it is new.

        New best weights come in every epoch at first: between checkpoints they are written once a second at most.
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
        best = Checkpoint(grouped(weights=self.best_weights), {"epoch": self.progress.best_epoch})
        self.checkpoints.save_best(best)
        self._best_saved_at = time.monotonic()

    def save_last(self) -> None:
        """Write the state at the end of the last whole epoch; also right in the middle of one, when interrupted."""
        if self.checkpoints is not None:
            self.checkpoints.save_last(self._at_epoch_end)
            self._save_best()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint that a fit with the same network, data and settings saved."""
        self.network.load_state_dict(checkpoint.group("weights"))
        self.best_weights = checkpoint.group("best")
        slots: dict[int, dict[str, Tensor]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in checkpoint.group("optimizer").items():
            index, _, slot = name.partition("/")
            if value.dim():  # the fused step goes over memory: moments must lie as their weights do (channels last)
                value = torch.empty_like(weights[int(index)]).copy_(value)
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.progress = Progress(**checkpoint.facts["progress"])
        if self.average:
            self.scored.load_state_dict(checkpoint.group("average"))
            self.average.steps = self.progress.averaged_steps
        names = {field.name for field in fields(EpochRecord)}
        self.history = [
            EpochRecord(**{k: v for k, v in row.items() if k in names}) for row in checkpoint.facts["history"]
        ]
        self._rows = list(checkpoint.facts["history"])
        self._at_epoch_end = checkpoint

    @property
    def best_record(self) -> EpochRecord:
        """The record of the epoch whose weights the network ends with."""
        return self.history[self.progress.best_epoch - 1]


def snapshot(network: LayeredNetwork) -> dict[str, Tensor]:
    """Return copies of all weights and buffers."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
