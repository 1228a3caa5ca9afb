"""Splits by identity: stratified, seeded, disjoint by content, and stable when images are added."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.data.examples import select_examples
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, Images
from pipeline.data.splits import LabelSample, Split, fold_examples, restore_split, split_for_base, split_for_target
from pipeline.data.stratified import max_folds, stratified_folds, stratified_split
from pipeline.data.stratified import test_rows as rows_of_test
from pipeline.errors import UserInputError

GEOMETRY = Geometry(size=(8, 8), channels=1)
FEW = LabelSample(per_class=10, val_per_class="auto", val_fraction=0.1, seed=0)
counts = st.lists(st.integers(4, 30), min_size=2, max_size=5)
seeds = st.integers(0, 2**32 - 1)


def labels_and_ids(class_counts: list[int], copies: int = 1, first: int = 0) -> tuple[Tensor, Tensor]:
    """Labels, and identities of which each occurs `copies` times in its class."""
    labels = torch.cat([torch.full((count * copies,), label) for label, count in enumerate(class_counts)])
    return labels, (torch.arange(len(labels)) // copies + first) * 7919 + 1


def images(class_counts: list[int], first: int = 0) -> Images:
    labels, ids = labels_and_ids(class_counts, first=first)
    return Images((ids % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), labels, ids)


def join(*parts: Images) -> Images:
    tensors = [torch.cat([getattr(part, name) for part in parts]) for name in ("pixels", "labels", "ids")]
    return Images(*tensors)


def dataset(train: Images, test: Images, validation: Images | None = None) -> Dataset:
    class_names = ("ants", "bees", "cats", "dogs")
    return Dataset("folder:x", train, test, class_names, "x", "a note", GEOMETRY, validation)


@pytest.fixture
def photos() -> Dataset:
    """Four classes of 60 training and 20 test images."""
    return dataset(images([60] * 4), images([20] * 4, first=1000))


def parts(split: Split) -> list[set[int]]:
    return [set(examples.ids.tolist()) for examples in (split.train, split.validation, split.test)]


def test_classes_are_relabeled_in_order(digits: Dataset) -> None:
    chosen = select_examples(digits.train, (5, 7, 9), digits)
    assert torch.equal(torch.tensor([5, 7, 9])[chosen.labels], digits.train.labels[chosen.rows])
    assert torch.equal(chosen.pixels, digits.train.pixels[chosen.rows])
    assert torch.equal(chosen.ids, digits.train.ids[chosen.rows])


@settings(max_examples=30)
@given(seed=seeds, fraction=st.floats(0.01, 0.9))
def test_validation_split_is_stratified_and_disjoint(digits: Dataset, seed: int, fraction: float) -> None:
    split = split_for_base(digits, (0, 1, 2, 3, 4), val_fraction=fraction, seed=seed)
    train, validation, test = parts(split)
    assert not train & validation and not (train | validation) & test
    assert len(split.train) + len(split.validation) == len(select_examples(digits.train, split.classes, digits))
    shares = torch.bincount(split.validation.labels) / (
        torch.bincount(split.validation.labels) + torch.bincount(split.train.labels)
    )
    assert (shares - fraction).abs().max() < 0.01


def test_seed_determines_the_split(digits: Dataset) -> None:
    first, again, other = (
        split_for_base(digits, (0, 1), val_fraction=0.2, seed=seed).validation.digest for seed in (1, 1, 2)
    )
    assert first == again != other


@given(class_counts=counts, copies=st.integers(1, 3), seed=seeds, fraction=st.floats(0.05, 0.5))
def test_identical_images_stay_in_one_split(class_counts: list[int], copies: int, seed: int, fraction: float) -> None:
    labels, ids = labels_and_ids(class_counts, copies)
    first, second = stratified_split(labels, ids, fraction, seed=seed)
    assert torch.cat([first, second]).sort().values.tolist() == list(range(len(labels)))
    assert not set(ids[first].tolist()) & set(ids[second].tolist())
    assert set(labels[first].tolist()) == set(labels[second].tolist()) == set(range(len(class_counts)))


def test_order_of_images_does_not_change_the_label_sample() -> None:
    labels, ids = labels_and_ids([20, 20])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    kept, _ = stratified_split(labels, ids, 0.2, seed=3)
    shuffled, _ = stratified_split(labels[order], ids[order], 0.2, seed=3)
    assert set(ids[kept].tolist()) == set(ids[order][shuffled].tolist())


def test_empty_split_is_rejected() -> None:
    with pytest.raises(UserInputError, match="val_fraction=0.9"):
        stratified_split(torch.tensor([0, 0, 0, 1]), torch.arange(4), 0.9, seed=0)


@given(class_counts=counts, added=counts)
def test_test_split_stays_when_images_are_added(class_counts: list[int], added: list[int]) -> None:
    class_counts = [10 * count for count in class_counts]  # no side is empty
    before = labels_and_ids(class_counts)
    more = labels_and_ids(added[: len(class_counts)], first=10_000)
    after = tuple(torch.cat(pair) for pair in zip(before, more, strict=True))
    old, new = (set(ids[rows_of_test(labels, ids)[1]].tolist()) for labels, ids in (before, after))
    assert old == new & set(before[1].tolist())


@given(st.lists(st.integers(3, 6), min_size=2, max_size=6), st.integers(0, 10**6))
def test_small_classes_have_images_in_both_splits(class_counts: list[int], first: int) -> None:
    labels, ids = labels_and_ids(class_counts, first=first)
    train, test = (torch.bincount(labels[rows], minlength=len(class_counts)) for rows in rows_of_test(labels, ids))
    assert int(train.min()) >= 2 and int(test.min()) >= 1


def test_test_split_has_a_fifth_of_the_images() -> None:
    labels, ids = labels_and_ids([4000, 6000])
    _, test = rows_of_test(labels, ids)
    assert (torch.bincount(labels[test]) / torch.tensor([4000, 6000]) - 0.2).abs().max() < 0.02


@settings(max_examples=40)
@given(class_counts=counts, copies=st.integers(1, 3), folds=st.integers(2, 4), seed=seeds)
def test_folds_are_a_stratified_partition(class_counts: list[int], copies: int, folds: int, seed: int) -> None:
    labels, ids = labels_and_ids(class_counts, copies)
    found = stratified_folds(labels, ids, folds=folds, seed=seed)
    assert torch.cat(found).sort().values.tolist() == list(range(len(labels)))
    per_fold = torch.stack([torch.bincount(labels[rows], minlength=len(class_counts)) for rows in found])
    assert (per_fold.max(0).values - per_fold.min(0).values).max() <= copies
    assert sum(len(set(ids[rows].tolist())) for rows in found) == sum(class_counts)  # no identity is in two folds


def test_more_folds_than_images_per_class_are_rejected() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    with pytest.raises(UserInputError, match="folds=4: .*must be in \\[2, 3\\], the size of the smallest class"):
        stratified_folds(labels, torch.arange(7), folds=4, seed=0)
    assert max_folds(labels, torch.tensor([1, 1, 2, 3, 4, 5, 6])) == 2  # of equal images, one counts


def test_larger_label_sample_contains_a_smaller_one(photos: Dataset) -> None:
    sizes = [LabelSample(per_class=size, val_per_class="auto", val_fraction=0.1, seed=4) for size in (5, 20)]
    small, large = (split_for_target(photos, (0, 1), sample) for sample in sizes)
    assert parts(small)[0] < parts(large)[0] and parts(small)[1] == parts(large)[1]
    assert small.train.counts(2) == [5, 5] and small.validation.counts(2) == [15, 15]


def test_default_number_of_labels_is_clipped(photos: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    wanted = {"per_class": 100, "val_per_class": "auto", "val_fraction": 0.1, "seed": 0}
    with caplog.at_level(logging.INFO):
        split = split_for_target(photos, (2, 3), LabelSample(**wanted, clip=True))
    assert split.train.counts(2) == [45, 45] and "per_class: lowered from 100 to 45" in caplog.text
    with pytest.raises(
        UserInputError, match="per_class=100: class cats of folder:x has 60 training images, 15 of them"
    ):
        split_for_target(photos, (2, 3), LabelSample(**wanted))


def test_official_validation_split_is_used() -> None:
    data = dataset(images([30] * 4), images([9] * 4, first=500), images([7] * 4, first=900))
    base = split_for_base(data, (0, 1), val_fraction=0.1, seed=0)
    assert base.train.counts(2) == [30, 30] and base.validation.counts(2) == [7, 7]
    few = split_for_target(data, (2, 3), FEW)
    assert few.train.counts(2) == [10, 10] and few.validation.counts(2) == [7, 7]
    again = restore_split(data, (2, 3), train=few.train.ids, validation=few.validation.ids, seen=few.train.ids)
    assert again.digest == few.digest
    assert fold_examples(base) is base.train


def test_folds_cover_training_and_validation_images(photos: Dataset) -> None:
    split = split_for_base(photos, (1, 3), val_fraction=0.2, seed=0)
    examples = fold_examples(split)
    assert examples.digest == select_examples(photos.train, (1, 3), photos).digest


def test_training_images_of_the_test_split_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    train, test = images([20] * 4), images([10] * 4, first=500)
    leaked = Images(test.pixels[:3], test.labels[:3], test.ids[:3])
    split = split_for_base(dataset(join(train, leaked), test), (0, 1), val_fraction=0.2, seed=0)
    assert len(split.train) + len(split.validation) == 40 and split.test.counts(2) == [10, 10]
    assert "3 training images of folder:x excluded: also in its test split" in caplog.text


def test_seen_images_are_in_neither_validation_nor_test(photos: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    free = split_for_target(photos, (0, 1), FEW)
    seen = torch.cat([free.validation.ids[:4], free.test.ids[:5]])
    split = split_for_target(photos, (0, 1), FEW, seen=seen)
    assert not (parts(split)[1] | parts(split)[2]) & set(seen.tolist())
    assert split.excluded == 5 and len(split.test) == 35
    assert "5 of 40 test images excluded: the base was trained on them" in caplog.text
    assert len(split.validation) == len(free.validation)


def test_class_without_unseen_test_images_is_rejected(photos: Dataset) -> None:
    seen = select_examples(photos.test, (1,), photos).ids
    with pytest.raises(UserInputError, match="it was trained on all 20 test images of class bees"):
        split_for_target(photos, (0, 1), FEW, seen=seen)


def test_label_sample_is_restored_after_adding_images(photos: Dataset) -> None:
    split = split_for_target(photos, (0, 1), FEW)
    drawn = {"train": split.train.ids, "validation": split.validation.ids, "seen": split.train.ids}
    larger = dataset(join(images([9] * 4, first=700), photos.train), photos.test)
    again = restore_split(larger, (0, 1), **drawn)
    assert [set(part) for part in parts(again)] == parts(split)
    assert not torch.equal(again.train.rows, split.train.rows)
    smaller = dataset(images([5] * 4), photos.test)
    with pytest.raises(UserInputError, match="its label sample does not match folder:x: .* images are missing"):
        restore_split(smaller, (0, 1), **drawn)


def test_label_sample_with_duplicate_images_is_restored() -> None:
    labels, ids = labels_and_ids([12, 12], copies=2)
    train = Images(torch.zeros(48, 1, 8, 8, dtype=torch.uint8), labels, ids)
    data = dataset(train, images([5, 5], first=500))
    split = split_for_base(data, (0, 1), val_fraction=0.25, seed=1)
    again = restore_split(data, (0, 1), train=split.train.ids, validation=split.validation.ids, seen=split.train.ids)
    assert again.digest == split.digest
