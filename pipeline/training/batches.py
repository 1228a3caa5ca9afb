"""One pass over the data, in shuffled batches or in chunks.

Legend: B examples in a batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pipeline.networks.layered import LayeredNetwork
from pipeline.training.records import Labelled
from pipeline.training.steps import Step

Batch = tuple[Tensor, Tensor]
Prepare = Callable[[Tensor, Tensor], Tensor]  # images uint8 (B, C, H, W), their positions (B,) -> model inputs


def scaling(network: LayeredNetwork) -> Prepare:
    """Return a function that scales images and does not augment them."""
    return lambda pixels, _: network.scale(pixels)


def run_epoch(batches: Iterable[Batch], step: Step, device: torch.device) -> tuple[float, float]:
    """Call `step` on every batch and return mean loss and accuracy.

    Args:
        batches: Values (B, ...) and labels (B,).
        step: Trains or evaluates on a batch.
        device: Device of the batches.
    """
    sum_dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    loss_sum, correct = (torch.zeros((), dtype=dtype, device=device) for dtype in (sum_dtype, torch.int64))
    count = 0
    for values, labels in batches:
        loss, logits = step(values, labels)
        loss_sum.add_(loss, alpha=len(labels))
        correct.add_((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss_sum.item() / count, correct.item() / count  # the only device synchronization of an epoch


def batch_count(count: int, batch_size: int) -> int:
    """Return the number of batches of `shuffled_batches`."""
    batches = math.ceil(count / batch_size)
    return batches - (batches > 1 and count - (batches - 1) * batch_size == 1)


def shuffled_batches(
    data: Labelled, batch_size: int, order: torch.Generator, *, prepare: Prepare | None = None
) -> Iterator[Batch]:
    """Yield every example once; all batches share two buffers.

    A last batch of one example would break batch norm, so it is merged with the previous batch.

    Args:
        data: Examples in memory, or rows that are read per batch.
        batch_size: Examples per batch.
        order: Generator of the shuffle.
        prepare: Augments and scales images that are read per batch.
    """
    count, device = len(data), data.labels.device
    permutation = torch.randperm(count, generator=order)
    starts = [number * batch_size for number in range(batch_count(count, batch_size))]
    ends = [*starts[1:], count]
    max_size = max(end - begin for begin, end in zip(starts, ends, strict=True))
    read = _reader(data, max_size, prepare)
    on_device = permutation.to(device)
    labels = torch.empty(max_size, dtype=torch.int64, device=device)
    for begin, end in zip(starts, ends, strict=True):
        indices = on_device[begin:end]
        yield (
            read(permutation[begin:end] if data.rows is not None else indices),
            torch.index_select(data.labels, 0, indices, out=labels[: end - begin]),
        )


def chunks(data: Labelled, size: int, *, prepare: Prepare | None = None) -> Iterator[Batch]:
    """Yield every example once, in order, without copying if the data are in memory."""
    if data.rows is None:
        yield from zip(torch.split(data.values, size), torch.split(data.labels, size), strict=True)
        return
    read = _reader(data, min(size, len(data)), prepare)
    for positions, labels in zip(torch.arange(len(data)).split(size), data.labels.split(size), strict=True):
        yield read(positions), labels


def _reader(data: Labelled, max_size: int, prepare: Prepare | None) -> Callable[[Tensor], Tensor]:
    """Return a function from positions (B,) to model inputs (B, ...) in a buffer that the next call overwrites."""
    if data.rows is not None:
        return StoredRows(data, max_size, prepare)
    values = torch.empty((max_size, *data.values.shape[1:]), dtype=data.values.dtype, device=data.values.device)
    return lambda positions: torch.index_select(data.values, 0, positions, out=values[: len(positions)])


class StoredRows:
    """Reads batches from a (memory-mapped) tensor through two buffers.

    Rows are read in ascending order, which is fastest on a disk, then reordered.

    Args:
        data: Examples with `rows`.
        max_size: Largest number of examples in a batch.
        prepare: Applied to uint8 images on the device.
    """

    def __init__(self, data: Labelled, max_size: int, prepare: Prepare | None):
        assert data.rows is not None, "these examples are in memory"
        self.rows, self.values, self.device = data.rows, data.values, data.labels.device
        self.prepare = prepare if data.values.dtype == torch.uint8 else None
        shape = (max_size, *data.values.shape[1:])
        self._ascending, self._batch = (torch.empty(shape, dtype=data.values.dtype) for _ in range(2))

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the model inputs (B, ...) at the given positions (B,)."""
        size = len(positions)
        rows, order = self.rows[positions].sort()
        ascending = torch.index_select(self.values, 0, rows, out=self._ascending[:size])
        batch = torch.index_select(ascending, 0, order.argsort(), out=self._batch[:size]).to(self.device)
        return batch if self.prepare is None else self.prepare(batch, positions)
