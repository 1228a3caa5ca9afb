"""`python -m pipeline clean`: list what commands have left on disk, and remove what nothing needs any more.

Whatever else may lie on disk for long, such as a cache, is listed once `LISTERS` has a function for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.console import echo
from pipeline.leftovers import Leftover
from pipeline.tracking.outbox.clean import list_run_states

LISTERS: tuple[Callable[[], Iterable[Leftover]], ...] = (list_run_states,)


def clean(*, dry_run: bool) -> None:
    """Print every leftover with its size, its age and why it is needed or not; remove those that are not.

    Args:
        dry_run: Whether to remove nothing.

    Raises:
        UserInputError: The tracking store cannot be used.
    """
    count = size = 0
    for leftover in (found for lister in LISTERS for found in lister()):
        taken, aged = leftover.measure()  # before it is gone
        removed = leftover.removable and (dry_run or leftover.remove())
        count, size = count + removed, size + removed * taken
        verb = "keep" if not removed else "would remove" if dry_run else "removed"
        why = leftover.why if removed or not leftover.removable else "it is in use by now"
        echo(f"{verb}: {leftover.kind} {leftover.path}, {_megabytes(taken)}, {_age(aged)} old: {why}")
    if dry_run and count:
        echo(f"{count} can be removed ({_megabytes(size)}): python -m pipeline clean --dry_run false")
    else:
        echo(f"{count} removed ({_megabytes(size)})" if count else "nothing to remove")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
