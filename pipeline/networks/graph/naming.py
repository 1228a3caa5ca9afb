"""Names of blocks: short, unique, and derived from the qualified names of their modules."""

from collections.abc import Sequence

from pipeline.errors import suggest


def owner(name: str) -> str:
    """Return the qualified name of the enclosing module; empty at the top level."""
    return name.rpartition(".")[0]


def is_inside(name: str, module: str) -> bool:
    """Return whether a qualified name is `module` or inside it."""
    return not module or name == module or name.startswith(module + ".")


def block_names(heavy: Sequence[Sequence[str]]) -> list[str]:
    """Return one name per block: the shortest module path that contains modules of this block only.

    Args:
        heavy: Qualified names of the heavy modules of each block, and last of the head, in order.
    """
    names: list[str] = []
    for index, modules in enumerate(heavy[:-1]):
        others = [module for number, part in enumerate(heavy) if number != index for module in part]
        names.append(_unique(_shortest(modules[0], others), names))
    return names


def _shortest(module: str, others: Sequence[str]) -> str:
    name = module
    while (parent := owner(name)) and not any(is_inside(other, parent) for other in others):
        name = parent
    return name


def _unique(name: str, taken: Sequence[str]) -> str:
    """Append a number to a duplicate name: a module may be called in several blocks."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}:{number}"
    return unique


def resolve_block(value: str | int, names: Sequence[str]) -> int:
    """Return the number (from 1) of a block that is given by number or name.

    A module name resolves to the last block inside it: `layer3` to `layer3.1`.

    Args:
        value: An integer in [0, number of blocks] (0: no block), or a name.
        names: Names of the blocks, from the input.

    Raises:
        ValueError: No such block; the message lists all blocks.
    """
    text = str(value).strip()
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) <= len(names):
            raise ValueError(f"must be an integer in [0, {len(names)}] or the name of a block, got {text}")
        return int(text)
    matches = [number for number, name in enumerate(names, 1) if is_inside(name, text)]
    if not text or not matches:
        known = [*names, *filter(None, map(owner, names))]
        hint = suggest(text, known) or f"Blocks: {', '.join(names)}."
        raise ValueError(f"the network has no block {text!r}. {hint}")
    return matches[-1]


def resolve_blocks(values: str, names: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers (from 1) of the blocks in a list such as `3,4` or `layer3,layer4`.

    A module name stands for all blocks inside it.

    Raises:
        ValueError: The list is empty, or a block does not exist.
    """
    numbers: set[int] = set()
    for word in values.split(","):
        last = resolve_block(word, names)
        inside = [number for number, name in enumerate(names, 1) if is_inside(name, word.strip())]
        numbers.update(inside or [last])
    if 0 in numbers:
        raise ValueError(f"blocks are numbered from 1 to {len(names)}, got 0")
    return tuple(sorted(numbers))
