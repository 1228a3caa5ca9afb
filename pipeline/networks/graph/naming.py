"""Names of blocks: short, unique, and made of the qualified names of their modules."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import suggest


def owner(name: str) -> str:
    """Return the qualified name of the enclosing module; empty at the top."""
    return name.rpartition(".")[0]


def lies_in(name: str, module: str) -> bool:
    """Return whether a qualified name is that of `module` or of something inside it."""
    return not module or name == module or name.startswith(module + ".")


def block_names(heavy: Sequence[Sequence[str]]) -> list[str]:
    """Return one name per block: the shortest module path that contains modules of this block only.

    Args:
        heavy: For each block, and last for the head, the qualified names of its heavy modules in order.
    """
    names: list[str] = []
    for index, modules in enumerate(heavy[:-1]):
        others = [module for number, part in enumerate(heavy) if number != index for module in part]
        names.append(_unique(_shortest(modules[0], others), names))
    return names


def _shortest(module: str, others: Sequence[str]) -> str:
    name = module
    while (parent := owner(name)) and not any(lies_in(other, parent) for other in others):
        name = parent
    return name


def _unique(name: str, taken: Sequence[str]) -> str:
    """Number a name that occurs before: a module may be called in several blocks."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}:{number}"
    return unique


def resolve_block(value: str | int, names: Sequence[str]) -> int:
    """Return the number of blocks up to and including a block, given by number or by name.

    A module's name stands for the last block inside it: `layer3` for `layer3.1`.

    Args:
        value: An integer in [0, number of blocks] (0: no block), or a name.
        names: Of the blocks, from the input.

    Raises:
        ValueError: No such block; the message lists what there is.
    """
    text = str(value).strip()
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) <= len(names):
            raise ValueError(f"must be an integer in [0, {len(names)}] or the name of a block, got {text}")
        return int(text)
    matches = [number for number, name in enumerate(names, 1) if lies_in(name, text)]
    if not text or not matches:
        known = [*names, *filter(None, map(owner, names))]
        hint = suggest(text, known) or f"Blocks: {', '.join(names)}."
        raise ValueError(f"the network has no block {text!r}. {hint}")
    return matches[-1]


def resolve_blocks(values: str, names: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers (from 1) of the blocks in a list such as `3,4` or `layer3,layer4`.

    A module's name stands for all blocks inside it.

    Raises:
        ValueError: Empty, or no such block.
    """
    numbers: set[int] = set()
    for word in values.split(","):
        last = resolve_block(word, names)
        inside = [number for number, name in enumerate(names, 1) if lies_in(name, word.strip())]
        numbers.update(inside or [last])
    if 0 in numbers:
        raise ValueError(f"blocks are numbered from 1 to {len(names)}, got 0")
    return tuple(sorted(numbers))
