"""Splits of image files: official ones without leaks, or a test split that depends on each image's content only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.folder_listing import FileTable, shown
from pipeline.data.identity import ranks
from pipeline.data.store.files import ImageFiles, Records
from pipeline.data.store.loading import Order
from pipeline.data.stratified import TEST_FRACTION
from pipeline.errors import DataFileError, Fault

MIN_IMAGES_PER_CLASS = 3  # one each for training, validation and test
SPLITS = ("train", "validation", "test")
RANKS = 2**63


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with their classes and official splits.

    Attributes:
        files: All files, split by split.
        labels: int64 (N,), class numbers.
        lengths: Number of files by split, in the order of the files; one split `all` if there are no official ones.
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
        """Return the files of an official split, int64."""
        first = 0
        for name, length in self.lengths.items():
            if name == split:
                return np.arange(first, first + length)
            first += length
        return np.arange(0)

    def counts(self, rows: NDArray[np.int64]) -> tuple[int, ...]:
        """Return how many of some files are in each class."""
        return tuple(np.bincount(self.labels[rows], minlength=len(self.class_names)).tolist())

    def check_sizes(self) -> None:
        """Reject classes with too few files, before anything is decoded.

        Raises:
            DataFileError: Names the classes.
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
        if small:
            images = "image" if needed == 1 else "images"
            what = f"a class needs at least {needed} different {images} {where}; too few in {shown(small, 10)}."
            raise DataFileError(Fault("dataset", self.files.source, what, "Add images or remove the class."))

    def arrange(self, records: Records) -> Order:
        """Return the splits of decoded files; files that are not decoded are left out.

        Raises:
            DataFileError: A class has too few different images.
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
            notes.append(f"{held_out.sum()} training images are also in the validation or test split: not trained on")
        if in_test.any():
            notes.append(f"{in_test.sum()} validation images are also in the test split: dropped")
        self._check_counts(train, 1 if len(validation) else 2, "in the training split")
        self._check_counts(test, 1, "in the test split")
        return _order(train, validation if "validation" in self.lengths else None, test, notes)

    def _arrange_by_content(self, records: Records) -> Order:
        """Split by the identity of each image, so that an image keeps its split when others are added."""
        rows = np.flatnonzero(records["done"] == 1)
        is_test = np.zeros(len(rows), bool)
        rank = ranks(torch.from_numpy(records["id"][rows].astype(np.int64)), "test").numpy()
        by_class = np.argsort(self.labels[rows], kind="stable")
        ends = np.cumsum(np.bincount(self.labels[rows], minlength=len(self.class_names)))
        small = []
        for name, members in zip(self.class_names, np.split(by_class, ends[:-1]), strict=True):
            different = np.unique(rank[members])
            if len(different) < MIN_IMAGES_PER_CLASS:
                small.append(f"{name} ({len(different)})")
                continue
            is_test[members] = rank[members] <= different[_test_count(different) - 1]
        if small:
            what = f"a class needs at least {MIN_IMAGES_PER_CLASS} different images; too few in {shown(small, 10)}."
            raise DataFileError(Fault("dataset", self.files.source, what, "Add images or remove the class."))
        notes = []
        repeated = int(np.isin(rank[~is_test], rank[is_test]).sum())
        if repeated:
            notes.append(f"{repeated} training images are also in the test split, in another class")
        return _order(rows[~is_test], None, rows[is_test], notes)


def _test_count(different: NDArray[np.int64]) -> int:
    """Return how many of a class's ascending, different ranks are in the test split: those below a threshold.

    At least one, and at most all but two, which training and validation need.
    """
    below = int(np.searchsorted(different, int(TEST_FRACTION * RANKS)))
    return min(max(below, 1), len(different) - 2)


def _order(
    train: NDArray[np.int64], validation: NDArray[np.int64] | None, test: NDArray[np.int64], notes: list[str]
) -> Order:
    splits = {"train": train, "validation": validation, "test": test}
    chosen = {name: rows for name, rows in splits.items() if rows is not None}
    return Order(
        np.concatenate(list(chosen.values())), {name: len(rows) for name, rows in chosen.items()}, tuple(notes)
    )


def join_tables(source: str, root: Path, tables: dict[str, FileTable], class_names: tuple[str, ...]) -> LabelledFiles:
    """Put the files of all splits one after the other: training, validation, test."""
    present = {split: tables[split] for split in ("all", *SPLITS) if split in tables}
    sizes, mtimes, labels = (
        np.array([value for table in present.values() for value in getattr(table, column)], np.int64)
        for column in ("sizes", "mtimes", "labels")
    )
    names = [name for table in present.values() for name in table.names]
    lengths = {split: len(table.names) for split, table in present.items()}
    return LabelledFiles(ImageFiles(source, root, names, sizes, mtimes), labels, lengths, class_names)
