"""A dataset: decoded images in memory or in a memory-mapped file, with labels and identities."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.data.preprocessing import Geometry


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 (M, C, H, W), 0-255; in memory, or memory-mapped: index it, never copy it whole.
        labels: int64 (N,), class indices in the dataset.
        ids: int64 (N,), identities of the images; see `identity`. Equal images have equal identities.
        pixel_rows: int64 (N,), the row of `pixels` of each image; None if `pixels` has these images in this order.
    """

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    pixel_rows: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def file(self) -> Path | None:
        """Path of the file that `pixels` is memory-mapped from; None if in memory or mapped read-only."""
        name = self.pixels.untyped_storage().filename
        return Path(name).absolute() if name else None


@dataclass(frozen=True)
class Dataset:
    """A dataset with its test split.

    Attributes:
        name: `mnist`, `digits`, `torchvision:CIFAR10`, `folder:PATH`, ...
        train: Images for training and validation.
        test: Images for the final evaluation only.
        class_names: Name of class k at index k.
        source: Path of its files, or name of the package that bundles it.
        note: How the dataset was chosen and where it was read from.
        geometry: Size, channels and resizing of `pixels`.
        validation: The official validation split, if there is one.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    source: str
    note: str
    geometry: Geometry
    validation: Images | None = None


@dataclass(frozen=True)
class DatasetSummary:
    """Classes, counts and geometry of a dataset, obtained without decoding its images.

    Attributes:
        name: As in `Dataset`.
        class_names: Name of class k at index k.
        train_counts: Training images per class.
        validation_counts: Images per class of the official validation split, if there is one.
        test_counts: Test images per class.
        official_splits: Whether the source defines the test split.
        geometry: The geometry that decoding would use.
        exact: Whether the counts are exact. Before the first decoding they include unreadable and duplicate images, and
            those of a test split that is sampled by content are expected values.
    """

    name: str
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    validation_counts: tuple[int, ...] | None
    test_counts: tuple[int, ...]
    official_splits: bool
    geometry: Geometry
    exact: bool = True
