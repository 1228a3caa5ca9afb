"""Listing a folder: official splits, classes, ignored files, links, and which images are in the test split."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.file_splits import LabelledFiles, concatenate_tables
from pipeline.data.folder_listing import FileTable, FolderListing, list_folder
from pipeline.data.identity import ranks
from pipeline.data.store.files import RECORD
from pipeline.errors import DataFileError, abbreviate


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listing(root: Path) -> FolderListing:
    return list_folder("folder:x", root)


def labelled(root: Path) -> LabelledFiles:
    found = listing(root)
    return concatenate_tables("folder:x", found.root, found.splits, class_names=found.class_names)


def classes_of(table: FileTable, found: FolderListing) -> dict[str, str]:
    return {name: found.class_names[label] for name, label in zip(table.names, table.labels, strict=True)}


def test_sub_folders_are_classes_sorted_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "dog/2.png", "dog/1.JPG", "cat/x.jpeg")
    found = listing(tmp_path)
    assert found.class_names == ("cat", "dog") and list(found.splits) == ["all"] and not found.note
    assert found.splits["all"].names == ["cat/x.jpeg", "dog/1.JPG", "dog/2.png"]
    assert found.splits["all"].labels == [0, 1, 1]


def test_nested_images_count_for_their_class(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a/b/1.png", "dog/1.png")
    assert classes_of(listing(tmp_path).splits["all"], listing(tmp_path))["cat/a/b/1.png"] == "cat"


def test_train_and_val_are_splits_not_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in ("ants", "bees")))
    found = listing(tmp_path)
    assert found.class_names == ("ants", "bees") and set(found.splits) == {"train", "test"}
    assert found.splits["test"].names == ["val/ants/1.jpg", "val/bees/1.jpg"]
    assert found.note == "val/ is the test split; validation is sampled from train/"


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_three_official_splits_are_kept(tmp_path: Path, validation: str) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", validation, "test") for name in "ab"))
    found = listing(tmp_path)
    assert {split: len(table.names) for split, table in found.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }


def test_validation_is_sampled_if_no_validation_folder_exists(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "test") for name in "ab"))
    assert set(listing(tmp_path).splits) == {"train", "test"}
    assert "validation is sampled from train/" in listing(tmp_path).note


def test_test_split_is_sampled_if_only_train_exists(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png")
    assert listing(tmp_path).class_names == ("a", "b") and list(listing(tmp_path).splits) == ["all"]


def test_unlabelled_test_images_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png")
    found = listing(tmp_path)
    assert found.class_names == ("a", "b") and list(found.splits) == ["all"]
    assert found.ignored_text == "1 folders next to the split folders (test)"


def test_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "plane/1.png")
    assert listing(tmp_path).class_names == ("plane", "train")
    touch(tmp_path, "train/steam/1.png")
    assert listing(tmp_path).class_names == ("plane", "train")


def test_two_validation_folders_are_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "val/a/1.png", "valid/a/1.png")
    with pytest.raises(DataFileError, match="val/ and valid/ are both folders of the validation split"):
        listing(tmp_path)


def test_ignored_files_are_counted_by_reason_with_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a/1.png",
        "b/1.png",
        "readme.txt",
        ".DS_Store",
        "a/.hidden.png",
        "a/x.heic",
        "b/Thumbs.db",
        "a/y.heic",
    )
    touch(tmp_path, "__MACOSX/a/._1.png", "b/z.heic", "b/w.svg")
    text = listing(tmp_path).ignored_text
    assert "1 stray files (readme.txt)" in text
    assert "3 hidden files or folders (.DS_Store, __MACOSX, a/.hidden.png)" in text
    assert "5 files of unsupported types (a/x.heic, a/y.heic, b/Thumbs.db and 2 more)" in text


def test_links_out_of_the_folder_and_loops_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "a/1.png", "b/1.png")
    touch(outside, "secret.png", "c/1.png")
    (root / "a" / "out.png").symlink_to(outside / "secret.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "broken.png").symlink_to(root / "none.png")
    (root / "c").symlink_to(outside / "c")
    (root / "a" / "inside.png").symlink_to(root / "b" / "1.png")
    found = listing(root)
    assert found.splits["all"].names == ["a/1.png", "a/inside.png", "b/1.png"]
    assert found.ignored_text == "4 symbolic links that are not followed (c, a/broken.png, a/loop and 1 more)"


def test_folder_with_one_class_is_rejected_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "cats/2.png")
    with pytest.raises(DataFileError, match="has one class, cats; a classifier needs at least two"):
        listing(tmp_path)


def test_folder_without_classes_is_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    with pytest.raises(DataFileError, match="one sub-folder of images per class"):
        listing(tmp_path)
    with pytest.raises(DataFileError, match="none is not a folder"):
        listing(tmp_path / "none")
    with pytest.raises(DataFileError, match="is not a folder"):
        listing(tmp_path / "1.png")


def test_small_classes_are_rejected_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{number}.png" for number in range(3)), "few/1.png", "few/2.png", "none/x.heic")
    with pytest.raises(DataFileError, match=r"at least 3 distinct images .*too few in few \(2\), none \(0\)"):
        labelled(tmp_path).check_sizes()


def test_class_missing_in_one_split_is_rejected_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/a/3.png")
    with pytest.raises(DataFileError, match=r"at least 1 distinct image in the test split; too few in b \(0\)"):
        labelled(tmp_path).check_sizes()
    touch(tmp_path, "test/b/1.png", "test/c/1.png")
    with pytest.raises(DataFileError, match=r"in the training split; too few in c \(0\)"):
        labelled(tmp_path).check_sizes()


def test_names_with_spaces_and_other_scripts_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a b/1 2.png", "\u732b/\u00fc.png", "caf\u00e9/1.png")
    assert listing(tmp_path).class_names == ("a b", "caf\u00e9", "\u732b")


def test_class_name_does_not_depend_on_unicode_form(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    touch(tmp_path, f"train/{decomposed}/1.png", "train/tea/1.png", "test/caf\u00e9/1.png", "test/tea/1.png")
    assert listing(tmp_path).class_names == ("caf\u00e9", "tea")


def test_unprintable_class_name_is_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b\x1b[2J/1.png")
    with pytest.raises(DataFileError, match=r"'b\\x1b\[2J' has a name that cannot be printed"):
        listing(tmp_path)


def test_undecodable_file_name_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / os.fsdecode(b"a/\xff.png")).write_bytes(b"x")
    files = labelled(tmp_path).files
    assert os.fsdecode(b"a/\xff.png") in files.names and len(files.names_blob) > 0
    assert abbreviate([os.fsdecode(b"\xff.png")], 1) == r"'\udcff.png'"


def test_thousand_classes_are_listed_in_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"class {number:04}/{image}.png" for number in range(1000) for image in range(3)))
    found = labelled(tmp_path)
    found.check_sizes()
    assert len(found.class_names) == 1000 and found.counts(found.rows("all")) == (3,) * 1000


def files_with(ids: list[list[int]], names: tuple[str, ...] = ("a", "b")) -> tuple[LabelledFiles, np.ndarray]:
    """A folder without official splits whose classes have images with these identities."""
    table = FileTable()
    for label, members in enumerate(ids):
        table.names += [f"{names[label]}/{number}.png" for number in range(len(members))]
        table.labels += [label] * len(members)
    table.sizes = table.mtimes = [0] * len(table.names)
    records = np.zeros(len(table.names), RECORD)
    records["done"], records["id"] = 1, [identity for members in ids for identity in members]
    return concatenate_tables("folder:x", Path(), {"all": table}, class_names=names), records


def ids_in_test(found: LabelledFiles, records: np.ndarray) -> set[int]:
    order = found.arrange(records)
    return set(records["id"][order.rows[order.lengths["train"] :]].tolist())


identities = st.lists(st.integers(0, 2**63 - 1), min_size=3, max_size=60, unique=True)


@given(identities, identities, st.data())
def test_added_images_do_not_move_others_between_splits(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    """Where neither side had to be filled."""
    before = ids_in_test(*files_with([first, second]))
    extra = data.draw(st.lists(st.integers(0, 2**63 - 1), max_size=30, unique=True))
    added = [identity for identity in extra if identity not in first]
    after = ids_in_test(*files_with([first + added, second]))
    rank = dict(zip(first, ranks(torch.tensor(first), "test").tolist(), strict=True))
    moved = {identity for identity in first if (identity in before) != (identity in after)}
    below = sorted(value for value in rank.values() if value < 0.2 * 2**63)
    if 1 <= len(below) <= len(first) - 2:
        assert not moved


@given(identities, identities)
def test_every_class_is_in_both_splits(first: list[int], second: list[int]) -> None:
    found, records = files_with([first, second])
    order = found.arrange(records)
    assert sorted(order.rows.tolist()) == list(range(len(records)))
    for label in (0, 1):
        in_class = found.labels[order.rows] == label
        assert in_class[: order.lengths["train"]].sum() >= 2 and in_class[order.lengths["train"] :].sum() >= 1


def test_test_split_has_about_a_fifth_of_the_images() -> None:
    found, records = files_with([list(range(5000)), list(range(5000, 10_000))])
    assert 0.18 < found.arrange(records).lengths["test"] / 10_000 < 0.22


def test_copies_of_an_image_stay_in_one_split() -> None:
    found, records = files_with([[1, 2, 3, 4] * 5, [5, 6, 7]])
    order = found.arrange(records)
    ids = records["id"][order.rows]
    assert not set(ids[: order.lengths["train"]]) & set(ids[order.lengths["train"] :])


def test_class_with_too_few_distinct_images_is_rejected_by_name() -> None:
    with pytest.raises(DataFileError, match=r"at least 3 distinct images; too few in a \(2\)"):
        found, records = files_with([[1, 2, 1, 2], [5, 6, 7]])
        found.arrange(records)


def official(train: list[int], validation: list[int], test: list[int]) -> tuple[LabelledFiles, np.ndarray]:
    """Official splits with images of alternating classes and these identities."""
    tables = {}
    for split, ids in (("train", train), ("validation", validation), ("test", test)):
        if ids:
            tables[split] = FileTable([f"{split}/{number}" for number in range(len(ids))])
            tables[split].labels = [number % 2 for number in range(len(ids))]
            tables[split].sizes = tables[split].mtimes = [0] * len(ids)
    records = np.zeros(len(train) + len(validation) + len(test), RECORD)
    records["done"], records["id"] = 1, train + validation + test
    return concatenate_tables("folder:x", Path(), tables, class_names=("a", "b")), records


def test_held_out_images_are_dropped_from_official_training_split() -> None:
    found, records = official([1, 2, 3, 4, 5, 6], [], [7, 8, 1])
    order = found.arrange(records)
    assert records["id"][order.rows].tolist() == [2, 3, 4, 5, 6, 7, 8, 1] and order.lengths == {"train": 5, "test": 3}
    assert order.notes == ("1 training images excluded: also in the validation or test split",)


def test_validation_images_in_the_test_split_are_dropped() -> None:
    found, records = official([1, 2, 3, 4], [5, 6, 7], [7, 8])
    order = found.arrange(records)
    assert order.lengths == {"train": 4, "validation": 2, "test": 2}
    assert order.notes == ("1 validation images excluded: also in the test split",)


def test_unreadable_images_are_left_out() -> None:
    found, records = official([1, 2, 3, 4, 5], [], [7, 8])
    records["done"][4] = 0
    assert found.arrange(records).rows.tolist() == [0, 1, 2, 3, 5, 6]


def test_class_emptied_by_deduplication_is_rejected() -> None:
    found, records = official([1, 2, 3, 4], [], [1, 3, 9, 10])
    with pytest.raises(DataFileError, match=r"at least 2 distinct images in the training split; too few in a \(0\)"):
        found.arrange(records)
