"""`python -m pipeline clean`: list what commands have left on disk, and remove what is no longer needed.

To list another kind of leftover, such as a cache, add a function to `LISTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.console import echo
from pipeline.data.store.image_store import list_image_stores
from pipeline.leftovers import Leftover
from pipeline.tracking.recovery.clean import list_run_states

LISTERS: tuple[Callable[[], Iterable[Leftover]], ...] = (list_run_states, list_image_stores)


def clean(*, dry_run: bool) -> None:
    """Print every leftover with its size, its age and why it is kept or removed; with `dry_run`, remove nothing.

    Raises:
        UserInputError: The tracking store cannot be used.
    """
    count = total = 0
    for leftover in (leftover for lister in LISTERS for leftover in lister()):
        size, age = leftover.measure()
        removed = leftover.removable and (dry_run or leftover.remove())
        count, total = count + removed, total + removed * size
        verb = "keep" if not removed else "would remove" if dry_run else "removed"
        reason = leftover.why if removed or not leftover.removable else "in use"
        echo(f"{verb}: {leftover.kind} {leftover.path}, {_megabytes(size)}, {_age(age)} old: {reason}")
    if dry_run and count:
        echo(f"{count} removable ({_megabytes(total)}); to remove: python -m pipeline clean --dry_run false")
    else:
        echo(f"{count} removed ({_megabytes(total)})" if count else "nothing to remove")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
