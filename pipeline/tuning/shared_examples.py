"""Pass the training images of a study to its workers: in shared memory, or as the path of a memory-mapped file."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.networks.layered import LayeredNetwork
from pipeline.training.inputs import fits_memory
from pipeline.training.records import Augment, Labelled
from pipeline.tuning.shared import SharedTensors, share_tensors


@dataclass(frozen=True)
class PixelFile:
    """A file of pixels that every worker maps; pickled as its path.

    Attributes:
        path: Absolute path of a raw file of uint8.
        shape: (N, C, H, W).
        offset: Bytes in the file before the first image.
    """

    path: Path
    shape: tuple[int, ...]
    offset: int = 0

    def open(self) -> Tensor:
        """Return the pixels, memory-mapped."""
        size = self.offset + math.prod(self.shape)
        whole = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8)
        return whole[self.offset :].view(self.shape)


@dataclass(frozen=True)
class SharedExamples:
    """Training images that can be pickled as an argument of a process being started.

    Attributes:
        tensors: Labels, then the rows of the examples in `file`, or their scaled pixels, or their uint8 pixels.
        file: File from which stored images are read.
    """

    tensors: SharedTensors
    file: PixelFile | None = None

    def labelled(self) -> Labelled:
        """Return the images on the CPU, mapped into this process."""
        labels, second = self.tensors.tensors
        if self.file is not None:
            return Labelled(self.file.open(), labels, second)
        return Labelled(second, labels, torch.arange(len(labels)) if second.dtype == torch.uint8 else None)


def share_examples(network: LayeredNetwork, examples: Examples, augment: Augment) -> SharedExamples:
    """Share images with worker processes: normalized if they are small and not augmented, as in a fit.

    Raises:
        DiskFullError: The images fit neither in shared memory nor in the state folder.
    """
    images = examples.images
    if augment == "none" and fits_memory(images.pixels, len(examples)):
        return SharedExamples(share_tensors([examples.labels, network.scale(examples.pixels)]))
    if images.file is not None:
        file = PixelFile(images.file, tuple(images.pixels.shape), int(images.pixels.storage_offset()))
        return SharedExamples(share_tensors([examples.labels, examples.pixel_rows]), file)
    return SharedExamples(share_tensors([examples.labels, examples.pixels]))
