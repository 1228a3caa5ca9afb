"""Classes by name: class lists, their meaning in a dataset, and defaults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.classes import (
    DIGITS,
    default_base_classes,
    default_target_classes,
    halve_classes,
    select_classes,
)
from pipeline.errors import UserInputError
from pipeline.params.data import MAX_CLASSES_TEXT, format_class_names, parse_class_list

INSECTS = ("ants", "bees", "big flies", "café, old", "wasps")


def test_names_numbers_and_ranges_select_classes() -> None:
    assert select_classes("wasps,ants", INSECTS, "x") == (0, 4)
    assert select_classes("0-2,4", INSECTS, "x") == (0, 1, 2, 4)
    assert select_classes('big flies, "café, old"', INSECTS, "x") == (2, 3)
    assert select_classes("ants,3", INSECTS, "x") == (0, 3)


def test_numbers_are_names_where_all_names_are_numbers() -> None:
    assert select_classes("5-9", DIGITS, "mnist") == (5, 6, 7, 8, 9)
    assert select_classes("10-20", ("5", *map(str, range(10, 30))), "x") == tuple(range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ants,bes", r"classes=ants,bes: x has no class bes, only ants, bees, .*Did you mean bees\?"),
        ("0-7", "x has no class 0-7"),
        ("ants,0", "must name at least two classes, each once"),
        ("2-2", "must name at least two classes"),
    ],
)
def test_unknown_class_error_suggests_the_closest_name(text: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        select_classes(text, INSECTS, "x")


names = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)


@given(st.data())
def test_any_class_names_round_trip(data: st.DataObject) -> None:
    class_names = tuple(sorted(data.draw(st.sets(names, min_size=2, max_size=20))))
    chosen = data.draw(st.sets(st.sampled_from(range(len(class_names))), min_size=2))
    numbers = tuple(sorted(chosen))
    text = format_class_names(tuple(class_names[number] for number in numbers), numbers)
    if not all(name.isdecimal() for name in class_names) and not any(character in text for character in '"-'):
        assert select_classes(text, class_names, "x") == numbers
    assert parse_class_list(text)


def test_long_class_lists_are_spelled_as_ranges_of_positions() -> None:
    class_names = tuple(f"class number {number}" for number in range(1000))
    numbers = (*range(500), 700)
    text = format_class_names(tuple(class_names[number] for number in numbers), numbers)
    assert text == "0-499,700-700" and len(text) < MAX_CLASSES_TEXT
    assert select_classes(text, class_names, "x") == numbers


def test_default_classes_of_digits_are_those_of_the_assignments() -> None:
    assert default_base_classes("mlp", DIGITS) == (0, 1, 2, 3, 4) and default_base_classes("cnn", DIGITS)[-1] == 6
    assert default_target_classes("mlp", DIGITS, DIGITS[:5]) == (5, 6, 7, 8, 9)
    assert default_target_classes("cnn", DIGITS) == (7, 8, 9)
    assert default_target_classes("mlp", DIGITS, DIGITS[5:]) == (5, 6, 7, 8, 9)  # training continues


def test_default_target_classes_are_those_the_base_has_not_seen() -> None:
    assert default_base_classes("cnn", INSECTS) == (0, 1, 2, 3, 4)
    assert default_target_classes("mlp", INSECTS) == (0, 1, 2, 3, 4)
    assert default_target_classes("mlp", INSECTS, ("ants", "wasps")) == (1, 2, 3)
    assert default_target_classes("mlp", INSECTS, INSECTS) == (0, 1, 2, 3, 4)
    assert default_target_classes("mlp", INSECTS, INSECTS[:4]) == (0, 1, 2, 3)  # one class is too few
    assert default_target_classes("mlp", DIGITS, ("4", "5")) == (0, 1, 2, 3, 6, 7, 8, 9)


def test_base_and_target_share_the_classes_of_one_dataset() -> None:
    assert halve_classes(INSECTS, "x") == ((0, 1), (2, 3, 4))
    with pytest.raises(UserInputError, match=r"dataset=x: has 3 classes .*Name a base that was trained on other data"):
        halve_classes(INSECTS[:3], "x")
