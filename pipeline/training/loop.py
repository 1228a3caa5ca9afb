"""Training: epochs, early stopping on validation loss, the best weights at the end.

`Fit` is iterated; it yields one record an epoch and knows nothing of who takes them. Whatever an epoch draws at
random comes from (seed, epoch), so a fit that goes on from a checkpoint repeats to the bit what an uninterrupted
one does, without any stored generator state.

Legend: N examples, B of them in a batch, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.errors import NonFiniteLossError
from pipeline.networks.layered import LayeredNetwork
from pipeline.runtime import derive_seed, generator
from pipeline.training.averaging import WeightAverage
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder, grouped
from pipeline.training.evaluate import CHUNK

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How to train; the fields mean what the parameters of the same name in `params.py` mean.

    Attributes:
        copied_learning_rate_factor: The learning rate of copied blocks, as a multiple of that of fresh ones.
        copied_weight_decay: Their weight decay; None takes `weight_decay`.
        train_dtype: `torch.bfloat16` trains under autocast; validation is always float32.
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


def run_epoch(
    network: LayeredNetwork,
    batches: Iterable[Batch],
    *,
    start: int,
    optimizer: torch.optim.Optimizer | None = None,
    autocast: torch.dtype = torch.float32,
    after_step: Callable[[], None] | None = None,
) -> tuple[float, float]:
    """Pass over some batches once, training where there is an optimizer, and return mean loss and accuracy.

    Args:
        network: Put into training mode with an optimizer, into evaluation mode without.
        batches: Values at depth `start` (B, ...) and labels (B,).
        start: The depth at which values enter.
        optimizer: Steps after each batch.
        autocast: bfloat16 computes in it where PyTorch deems it safe.
        after_step: Called after each step of the optimizer.
    """
    network.train(optimizer is not None)
    device = network.head.weight.device
    sums, count = torch.zeros(2, dtype=torch.float64, device=device), 0
    mixed = torch.autocast(device.type, autocast, enabled=autocast != torch.float32)
    with torch.set_grad_enabled(optimizer is not None):
        for values, labels in batches:
            with mixed:
                logits = network.logits(values, start)
            if logits.dtype == torch.bfloat16:
                logits = logits.float()
            loss = cross_entropy(logits, labels)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if after_step is not None:
                    after_step()
            sums[0] += loss.detach() * len(labels)
            sums[1] += (logits.detach().argmax(1) == labels).sum()
            count += len(labels)
    mean_loss, accuracy = (sums / count).tolist()  # the only wait for the device in an epoch
    return mean_loss, accuracy


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
        self.average = WeightAverage(network, settings.weight_averaging) if settings.weight_averaging else None
        self.scored = self.average.network if self.average else network  # what is validated and kept
        self.best_weights: dict[str, Tensor] = snapshot(network)
        self.optimizer = build_optimizer(network, settings, copied)
        self._at_epoch_end = self._checkpoint()
        self._best_saved_at = -math.inf

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
        self._save(at_end=True)

    @property
    def finished(self) -> bool:
        """Whether the epochs or the patience are used up."""
        waited = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.settings.epochs or waited >= self.settings.patience

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train on every example once, in the order of that epoch, and return running loss and accuracy."""
        seed = self.settings.seed
        batches = shuffled_batches(self.train, self.settings.batch_size, generator(seed, "order", epoch))
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            return run_epoch(
                self.network,
                batches,
                start=self.start,
                optimizer=self.optimizer,
                autocast=self.settings.train_dtype,
                after_step=self.average.update if self.average else None,
            )

    def _one_epoch(self) -> EpochRecord:
        began = time.perf_counter()
        epoch = self.progress.epoch + 1
        train_loss, train_accuracy = self.train_epoch(epoch)
        epoch_seconds = time.perf_counter() - began
        val_loss, val_accuracy = run_epoch(self.scored, chunks(self.validation), start=self.start)
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
        history = [asdict(record) for record in self.history]
        return Checkpoint(tensors, {"progress": asdict(self.progress), "history": history})

    def _save(self, *, at_end: bool = False) -> None:
        """Write `last` every `checkpoint_every` epochs and at the end; `best` with it, and when it is new.

        New best weights come in every epoch at first: between checkpoints they are written once a second at most.
        """
        if self.checkpoints is None:
            return
        due = at_end or self.progress.epoch % self.settings.checkpoint_every == 0
        is_new = self.progress.best_epoch == self.progress.epoch
        if due or (is_new and time.monotonic() - self._best_saved_at > 1):
            self.checkpoints.save_best(
                Checkpoint(grouped(weights=self.best_weights), {"epoch": self.progress.best_epoch})
            )
            self._best_saved_at = time.monotonic()
        if due:
            self.save_last()

    def save_last(self) -> None:
        """Write the state at the end of the last whole epoch; also right in the middle of one, when interrupted."""
        if self.checkpoints is not None:
            self.checkpoints.save_last(self._at_epoch_end)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint that a fit with the same network, data and settings saved."""
        self.network.load_state_dict(checkpoint.group("weights"))
        self.best_weights = checkpoint.group("best")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.group("optimizer").items():
            index, _, slot = name.partition("/")
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
        self._at_epoch_end = checkpoint

    @property
    def best_record(self) -> EpochRecord:
        """The record of the epoch whose weights the network ends with."""
        return self.history[self.progress.best_epoch - 1]


def snapshot(network: LayeredNetwork) -> dict[str, Tensor]:
    """Return copies of all weights and buffers."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def build_optimizer(network: LayeredNetwork, settings: FitSettings, copied: int) -> torch.optim.Adam:
    """Return Adam over what is trainable, copied blocks in a group of their own; fused where the device can."""
    copies = {id(p) for block in network.blocks[:copied] for p in block.parameters()}
    trainable = [p for p in network.parameters() if p.requires_grad]
    copied_decay = settings.weight_decay if settings.copied_weight_decay is None else settings.copied_weight_decay
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in trainable if id(p) not in copies],
            "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [p for p in trainable if id(p) in copies],
            "weight_decay": copied_decay,
            "lr": settings.learning_rate * settings.copied_learning_rate_factor,
        },
    ]
    fused = trainable[0].device.type in ("cpu", "cuda", "mps")
    return torch.optim.Adam([group for group in groups if group["params"]], lr=settings.learning_rate, fused=fused)
