"""One pass over the data, in shuffled batches or in chunks.

Legend: B examples in a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pipeline.training.evaluate import CHUNK
from pipeline.training.records import Labelled
from pipeline.training.steps import Step

Batch = tuple[Tensor, Tensor]


def run_epoch(batches: Iterable[Batch], step: Step, device: torch.device) -> tuple[float, float]:
    """Call `step` on every batch and return mean loss and accuracy.

    Args:
        batches: Values (B, ...) and labels (B,).
        step: Trains or evaluates on a batch.
        device: Of the batches.
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


def shuffled_batches(data: Labelled, batch_size: int, order: torch.Generator) -> Iterator[Batch]:
    """Yield every example once; all batches share two buffers.

    A last batch of a single example would break batch norm, so it joins the batch before it.
    """
    count, device = len(data.labels), data.labels.device
    permutation = torch.randperm(count, generator=order).to(device)
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], count]
    max_size = max(end - begin for begin, end in zip(starts, ends, strict=True))
    values = torch.empty((max_size, *data.values.shape[1:]), dtype=data.values.dtype, device=device)
    labels = torch.empty(max_size, dtype=torch.int64, device=device)
    for begin, end in zip(starts, ends, strict=True):
        size, indices = end - begin, permutation[begin:end]
        yield (
            torch.index_select(data.values, 0, indices, out=values[:size]),
            torch.index_select(data.labels, 0, indices, out=labels[:size]),
        )


def chunks(data: Labelled) -> Iterator[Batch]:
    """Yield every example once, in order, without copying."""
    yield from zip(torch.split(data.values, CHUNK), torch.split(data.labels, CHUNK), strict=True)
