"""Datasets whose images are files: load them, or describe them without decoding."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.file_splits import LabelledFiles
from pipeline.data.folder_listing import NAMES_SHOWN
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.source import SourceRequest
from pipeline.data.store.loading import StoredImages, load_images, peek
from pipeline.data.stratified import TEST_FRACTION
from pipeline.errors import abbreviate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSource:
    """Labelled image files, and where they come from.

    Attributes:
        labelled: The files.
        origin: Path of the folder, as printed.
        note: Where the splits come from.
        ignored: Summary of the ignored files; empty if there are none.
    """

    labelled: LabelledFiles
    origin: str
    note: str
    ignored: str = ""

    def load(self, request: SourceRequest) -> Dataset:
        """Return the decoded images; log a warning if files are ignored.

        Raises:
            DataFileError: A class has too few images, or files cannot be read.
            DiskFullError: The decoded images do not fit on the disk.
        """
        self.labelled.check_sizes()
        stored = load_images(self.labelled.files, request.load, self.labelled.arrange)
        self._warn(request.name, stored)
        splits = self._images(stored)
        return Dataset(
            request.name,
            splits["train"],
            splits["test"],
            self.labelled.class_names,
            self.origin,
            self._note(stored),
            stored.geometry,
            splits.get("validation"),
        )

    def _images(self, stored: StoredImages) -> dict[str, Images]:
        rows = torch.from_numpy(stored.order.rows)
        labels = torch.from_numpy(self.labelled.labels[stored.order.rows])
        ids = torch.from_numpy(stored.records["id"][stored.order.rows].astype(np.int64))
        lengths = list(stored.order.lengths.values())
        columns = zip(*(tensor.split(lengths) for tensor in (labels, ids, rows)), strict=True)
        return {name: Images(stored.pixels, *parts) for name, parts in zip(stored.order.lengths, columns, strict=True)}

    def _warn(self, name: str, stored: StoredImages) -> None:
        parts = [self.ignored] if self.ignored else []
        if stored.unreadable:
            parts.append(f"{len(stored.unreadable)} unreadable images ({abbreviate(stored.unreadable, NAMES_SHOWN)})")
        if parts:
            logger.warning("%s: ignored %s", name, "; ".join(parts))
        for text in stored.order.notes:
            logger.warning("%s: %s", name, text)

    def _note(self, stored: StoredImages) -> str:
        parts = [f"{len(stored.order.rows)} images in {self.origin}, {geometry_text(stored.geometry)}", self.note]
        return "; ".join(part for part in parts if part)

    def describe(self, request: SourceRequest) -> DatasetSummary:
        """Return classes, counts and geometry without decoding more than a sample.

        Raises:
            DataFileError: A class has too few images.
        """
        labelled = self.labelled
        labelled.check_sizes()
        records, geometry = peek(labelled.files, request.load)
        counts: dict[str, tuple[int, ...]] = {}
        if records is not None:
            order = labelled.arrange(records)
            rows = np.split(order.rows, np.cumsum(list(order.lengths.values()))[:-1])
            counts = {split: labelled.counts(part) for split, part in zip(order.lengths, rows, strict=True)}
        elif labelled.official:
            counts = {split: labelled.counts(labelled.rows(split)) for split in labelled.lengths}
        else:
            sizes = labelled.counts(labelled.rows("all"))
            counts["test"] = tuple(max(1, min(size - 2, round(TEST_FRACTION * size))) for size in sizes)
            counts["train"] = tuple(size - test for size, test in zip(sizes, counts["test"], strict=True))
        return DatasetSummary(
            request.name,
            labelled.class_names,
            counts["train"],
            counts.get("validation"),
            counts["test"],
            official_splits=labelled.official,
            geometry=geometry,
            exact=records is not None,
        )


def geometry_text(geometry: Geometry) -> str:
    """Format a geometry, such as `64x64 RGB`."""
    return f"{geometry.size[0]}x{geometry.size[1]} {'gray' if geometry.channels == 1 else 'RGB'}"
