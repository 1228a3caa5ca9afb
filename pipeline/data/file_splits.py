"""Split image files: official splits without duplicates across them, or a test split by image content."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.folder_listing import FileTable
from pipeline.data.identity import ranks
from pipeline.data.store.files import ImageFiles, Records
from pipeline.data.store.loading import Order
from pipeline.data.stratified import MAX_RANK, TEST_FRACTION
from pipeline.errors import DataFileError, Fault, abbreviate

MIN_IMAGES_PER_CLASS = 3  # one each for training, validation and test
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with their classes and official splits.

    Attributes:
        files: All files, split by split.
        labels: int64 (N,), class indices.
        lengths: Number of files per split, in the order of `files`; the only key is `all` without official splits.
        class_names: Name of class k at index k.
    """

    files: ImageFiles
    labels: NDArray[np.int64]
    lengths: dict[str, int]
    class_names: tuple[str, ...]

    @property
    def official(self) -> bool:
        """Whether the splits are official."""
        return "all" not in self.lengths

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split, int64; empty if it does not exist."""
        first = 0
        for name, length in self.lengths.items():
            if name == split:
                return np.arange(first, first + length)
            first += length
        return np.arange(0)

    def counts(self, rows: NDArray[np.int64]) -> tuple[int, ...]:
        """Return the number of the given files per class."""
        return tuple(np.bincount(self.labels[rows], minlength=len(self.class_names)).tolist())

    def check_sizes(self) -> None:
        """Reject classes with too few files, before anything is decoded.

        Raises:
            DataFileError: A class has too few files; the message lists all such classes.
        """
        if not self.official:
            self._check_counts(self.rows("all"), MIN_IMAGES_PER_CLASS, "(train, validation, test)")
            return
        needed = 1 if "validation" in self.lengths else 2
        self._check_counts(self.rows("train"), needed, "in the training split")
        for split in set(self.lengths) - {"train"}:
            self._check_counts(self.rows(split), 1, f"in the {split} split")

    def _check_counts(self, rows: NDArray[np.int64], needed: int, where: str) -> None:
        counts = self.counts(rows)
        small = [f"{name} ({count})" for name, count in zip(self.class_names, counts, strict=True) if count < needed]
        self._reject_small(small, f"{needed} distinct {'image' if needed == 1 else 'images'} {where}")

    def _reject_small(self, small: list[str], needed: str) -> None:
        if small:
            what = f"a class needs at least {needed}; too few in {abbreviate(small, 10)}."
            raise DataFileError(Fault("dataset", self.files.source, what, "Add images or remove the class."))

    def arrange(self, records: Records) -> Order:
        """Return the splits of the decoded files; files that were not decoded are left out.

        Raises:
            DataFileError: A class has too few distinct images.
        """
        return self._arrange_official(records) if self.official else self._arrange_by_content(records)

    def _arrange_official(self, records: Records) -> Order:
        """Drop training images that are also held out, and validation images that are also in the test split."""
        ids = records["id"]
        train, validation, test = (self.rows(split)[records["done"][self.rows(split)] == 1] for split in SPLITS)
        held_out = np.isin(ids[train], np.concatenate((ids[validation], ids[test])))
        in_test = np.isin(ids[validation], ids[test])
        train, validation = train[~held_out], validation[~in_test]
        notes = []
        if held_out.any():
            notes.append(f"{held_out.sum()} training images excluded: also in the validation or test split")
        if in_test.any():
            notes.append(f"{in_test.sum()} validation images excluded: also in the test split")
        self._check_counts(train, 1 if len(validation) else 2, "in the training split")
        self._check_counts(test, 1, "in the test split")
        return _order(train, validation if "validation" in self.lengths else None, test, notes=notes)

    def _arrange_by_content(self, records: Records) -> Order:
        """Split by image identity, so that an image stays in its split when others are added."""
        rows = np.flatnonzero(records["done"] == 1)
        is_test = np.zeros(len(rows), bool)
        rank = ranks(torch.from_numpy(records["id"][rows].astype(np.int64)), "test").numpy()
        by_class = np.argsort(self.labels[rows], kind="stable")
        ends = np.cumsum(np.bincount(self.labels[rows], minlength=len(self.class_names)))
        small = []
        for name, members in zip(self.class_names, np.split(by_class, ends[:-1]), strict=True):
            distinct = np.unique(rank[members])
            if len(distinct) < MIN_IMAGES_PER_CLASS:
                small.append(f"{name} ({len(distinct)})")
                continue
            is_test[members] = rank[members] <= distinct[_test_count(distinct) - 1]
        self._reject_small(small, f"{MIN_IMAGES_PER_CLASS} distinct images")
        notes = []
        repeated = int(np.isin(rank[~is_test], rank[is_test]).sum())
        if repeated:
            notes.append(f"{repeated} training images are also in the test split under another class")
        return _order(rows[~is_test], None, rows[is_test], notes=notes)


def _test_count(distinct: NDArray[np.int64]) -> int:
    """Return the number of test images of a class: those with a rank below the threshold.

    At least one; at least two remain for training and validation. `distinct` holds the distinct ranks, ascending.
    """
    below = int(np.searchsorted(distinct, int(TEST_FRACTION * MAX_RANK)))
    return min(max(below, 1), len(distinct) - 2)


def _order(
    train: NDArray[np.int64], validation: NDArray[np.int64] | None, test: NDArray[np.int64], *, notes: list[str]
) -> Order:
    splits = {"train": train, "validation": validation, "test": test}
    chosen = {name: rows for name, rows in splits.items() if rows is not None}
    return Order(
        np.concatenate(list(chosen.values())), {name: len(rows) for name, rows in chosen.items()}, tuple(notes)
    )


def concatenate_tables(
    source: str, root: Path, tables: dict[str, FileTable], *, class_names: tuple[str, ...]
) -> LabelledFiles:
    """Concatenate the files of all splits: training, validation, test."""
    present = {split: tables[split] for split in ("all", *SPLITS) if split in tables}
    sizes, mtimes, labels = (
        np.array([value for table in present.values() for value in getattr(table, column)], np.int64)
        for column in ("sizes", "mtimes", "labels")
    )
    names = [name for table in present.values() for name in table.names]
    lengths = {split: len(table.names) for split, table in present.items()}
    return LabelledFiles(ImageFiles(source, root, names, sizes, mtimes), labels, lengths, class_names)
