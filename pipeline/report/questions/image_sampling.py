"""The part of a difference's error that comes from the sample of test images, which all seeds share.

Read `image_sampling`. It is computed from each run's predictions, paired by image; where a run has none, an upper bound
is computed from the accuracies alone.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pipeline.report.elements import NO_VALUE
from pipeline.report.questions.quantities import TEST_ACCURACY, TEST_PRECISION, Quantity
from pipeline.report.records import Member, ReportedArm
from pipeline.statistics.estimates import Pairs
from pipeline.statistics.sources import accuracy_scores, difference_error_bound, image_error, precision_scores
from pipeline.tracking import names

SCORES = {TEST_ACCURACY: accuracy_scores, TEST_PRECISION: precision_scores}


def image_sampling(quantity: Quantity, arm: ReportedArm, reference: ReportedArm, *, pairs: Pairs) -> str:
    """Return the standard error from sampling the test images, such as `0.21 pp` or `at most 0.35 pp`.

    Args:
        quantity: What is compared; a quantity other than accuracy and precision has no such error.
        arm: Compared arm.
        reference: Its reference.
        pairs: The values of both, in percent, on the seeds that they share.
    """
    if quantity not in SCORES or not pairs.seeds:
        return NO_VALUE
    scores = paired_scores(quantity, arm, reference)
    if scores is not None:
        return f"{image_error(scores):.2f} pp"
    counts = {member.run.metrics.get(names.TEST_IMAGES) for member in arm.members}
    images = counts.pop() if len(counts) == 1 else None
    if images is None:
        return NO_VALUE
    return f"at most {difference_error_bound(fmean(pairs.values), fmean(pairs.reference), int(images)):.2f} pp"


def paired_scores(quantity: Quantity, arm: ReportedArm, reference: ReportedArm) -> NDArray[np.float64] | None:
    """Return the arm's score minus the reference's for each seed and image, shape (seeds, images).

    None if no seed has the predictions of both, or if the seeds have different test images.
    """
    others = {member.seed: member for member in reference.members}
    rows, identities = [], None
    for member in arm.members:
        pair = _predictions(quantity, member, others.get(member.seed))
        if pair is None:
            continue
        images, row = pair
        if identities is not None and not np.array_equal(identities, images):
            return None
        identities = images
        rows.append(row)
    return np.stack(rows) if rows and len(rows[0]) > 1 else None


def _predictions(
    quantity: Quantity, member: Member, other: Member | None
) -> tuple[NDArray[np.str_], NDArray[np.float64]] | None:
    """Return the identities of the test images that two runs share, and the difference of their scores."""
    one, two = member.predictions, other.predictions if other is not None else None
    if one is None or two is None or not np.array_equal(one.identities, two.identities):
        return None
    score = SCORES[quantity]
    return one.identities, score(one.classes, one.predicted) - score(two.classes, two.predicted)
