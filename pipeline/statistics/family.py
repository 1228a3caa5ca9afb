"""Holm's correction over the questions of a family, each with up to two answers (sign and size).

At most one null hypothesis of a question can be true: "no difference" and "a difference of at least the margin" exclude
each other. So both answers of a question share its portion of the error rate, and a question counts until both
answers are settled. With one answer per question this is Holm's procedure.

Sources: Holm, Scand. J. Stat. 6 (1979) 65-70; Shaffer, J. Am. Stat. Assoc. 81 (1986) 826-831 (hypotheses that exclude
each other).
"""

import numpy as np

from pipeline.statistics.estimates import Floats


def adjust_family(p_values: Floats) -> Floats:
    """Return p values that, compared with 0.05, limit the family-wise error rate to 5 %.

    Args:
        p_values: Shape (questions, answers), valid p values; NaN for answers that are not requested.

    Returns:
        Adjusted p values of the same shape, NaN where the input is.
    """
    adjusted = np.full(p_values.shape, np.nan)
    pending = (~np.isnan(p_values)).sum(axis=1)
    largest = 0.0
    for flat in np.argsort(p_values, axis=None, kind="stable")[: int(pending.sum())]:  # NaN sorts last
        question, answer = divmod(int(flat), p_values.shape[1])
        largest = max(largest, float(p_values[question, answer]) * int((pending > 0).sum()))
        adjusted[question, answer] = min(1.0, largest)
        pending[question] -= 1
    return adjusted
