"""The smallest difference that matters in a question, fixed before any result: its own margin, or the default.

Margins are percentage points, for kinds that compare times or epochs percent.
"""

from __future__ import annotations

RATIO_KINDS = ("convergence", "caching", "time")  # compared as ratios
RATIO_MARGIN = 10.0  # percent
FEW_LABELS = 50  # per class, the largest number with the margin of few labels
MARGIN_FEW, MARGIN_SOME, MARGIN_ALL = 1.0, 0.5, 0.1  # percentage points


def default_margin(kind: str, per_class: str) -> float:
    """Return the margin of a kind of question at a number of labels per class; anything but digits means all."""
    if kind in RATIO_KINDS:
        return RATIO_MARGIN
    if not per_class.isdigit():
        return MARGIN_ALL
    return MARGIN_FEW if int(per_class) <= FEW_LABELS else MARGIN_SOME
