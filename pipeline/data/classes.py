"""Resolve class lists to class indices, and choose default classes for a dataset and a base."""

import re
from collections.abc import Collection, Sequence

import numpy as np

from pipeline.errors import Fault, UserInputError, abbreviate, suggest
from pipeline.params.data import parse_class_list
from pipeline.params.family import Family

DIGITS = tuple(map(str, range(10)))
BASE_DIGITS: dict[Family, tuple[str, ...]] = {"mlp": DIGITS[:5], "cnn": DIGITS[:7]}
TARGET_DIGITS: dict[Family, tuple[str, ...]] = {"mlp": DIGITS[5:], "cnn": DIGITS[7:]}
CLASS_SPLIT_STREAM = 0x5EED  # separates these draws from others with the same seed
MAX_LISTED = 20  # class names in an error message

Classes = tuple[int, ...]  # class indices in a dataset, ascending


def select_classes(text: str, class_names: Sequence[str], dataset: str, *, name: str = "classes") -> Classes:
    """Return the indices of the classes in a class list, ascending.

    An item is a class name, an index or a range of indices. If all class names are numbers, numbers in the list are
    names.

    Args:
        text: A class list whose syntax `params` has checked.
        class_names: All classes of the dataset.
        dataset: Name of the dataset, for error messages.
        name: Name of the parameter, for error messages.

    Raises:
        UserInputError: A class does not exist (the message suggests the closest name), or is a duplicate.
    """
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    by_name = all(re.fullmatch(r"\d{1,6}", class_name) for class_name in class_names)
    selected: list[int] = []
    for item in parse_class_list(text):
        indices = [numbers[item]] if item in numbers else _range(item, numbers, by_name=by_name)
        if not indices:
            known = "0-9" if is_digits(class_names) else abbreviate(class_names, MAX_LISTED)
            what = f"{dataset} has no class {item}, only {known}."
            raise UserInputError(Fault(name, text, what, suggest(item, class_names) or "Choose some of these."))
        selected += indices
    if len(set(selected)) < len(selected) or len(selected) < 2:
        raise UserInputError(Fault(name, text, "must name at least two classes, each once."))
    return tuple(sorted(selected))


def _range(item: str, numbers: dict[str, int], *, by_name: bool) -> list[int]:
    """Return the class indices of a number or range; empty if any of them does not exist."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", item)
    if match is None:
        return []
    wanted = range(int(match[1]), int(match[2] or match[1]) + 1)
    if by_name:
        return [numbers[str(number)] for number in wanted] if all(str(n) in numbers for n in wanted) else []
    return list(wanted) if wanted and wanted[-1] < len(numbers) else []


def is_digits(class_names: Sequence[str]) -> bool:
    """Whether the classes of a dataset are the ten digits."""
    return tuple(class_names) == DIGITS


def default_base_classes(family: Family, class_names: Sequence[str]) -> Classes:
    """Return the classes that a base is trained on by default: digits 0-4 (MLP) or 0-6 (CNN), else all classes."""
    return _indices(BASE_DIGITS[family] if is_digits(class_names) else class_names, class_names)


def default_target_classes(family: Family, class_names: Sequence[str], seen: Collection[str] = ()) -> Classes:
    """Return the default target classes.

    Args:
        family: Family of the base.
        class_names: All classes of the dataset.
        seen: Classes of a base that was trained on the same dataset.

    Returns:
        Digits 5-9 (MLP) or 7-9 (CNN), else all classes. If the base has seen some of these, but not exactly these,
        the unseen classes; if there are fewer than two, the classes that the base was trained on.
    """
    default = _indices(TARGET_DIGITS[family] if is_digits(class_names) else class_names, class_names)
    seen_numbers = {number for number, class_name in enumerate(class_names) if class_name in set(seen)}
    if not seen_numbers & set(default) or seen_numbers == set(default):
        return default
    unseen = tuple(number for number in range(len(class_names)) if number not in seen_numbers)
    return unseen if len(unseen) >= 2 else tuple(sorted(seen_numbers))


def halve_classes(class_names: Sequence[str], dataset: str) -> tuple[Classes, Classes]:
    """Return base and target classes of one dataset: the first half, in name order, and the rest.

    Raises:
        UserInputError: There are fewer than four classes.
    """
    count = len(class_names)
    if count < 4:
        what = f"has {count} classes ({', '.join(class_names)}); a base and a target need at least two each."
        remedy = "Name a base that was trained on other data (base=models:/...), or train one first."
        raise UserInputError(Fault("dataset", dataset, what, remedy))
    return tuple(range(count // 2)), tuple(range(count // 2, count))


def draw_classes(chosen: Classes, count: int, seed: int) -> Classes:
    """Return the classes that replace the chosen ones if the class split is random.

    One random permutation of all `count` classes per seed: disjoint choices stay disjoint, nested ones nested.
    """
    order = np.random.default_rng((seed, CLASS_SPLIT_STREAM)).permutation(count)
    return tuple(sorted(int(order[number]) for number in chosen))


def _indices(chosen: Sequence[str], class_names: Sequence[str]) -> Classes:
    wanted = set(chosen)
    return tuple(number for number, class_name in enumerate(class_names) if class_name in wanted)
