"""Sources of variation: what an interval over seeds covers, and the sampling error of the test images.

All seeds are scored on the same test images. More seeds do not reduce the error due to this sample of images, and an
interval over seeds does not include it. It is reported separately: a two-way bootstrap over seeds and images would
count their interaction more than once.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED_SOURCES = ("labels", "initialization", "order of batches", "base")


def binomial_error(accuracy: float, images: int) -> float:
    """Return the standard error, in percentage points, of an accuracy in percent on `images` test images."""
    if not 0 <= accuracy <= 100 or images < 1:
        raise ValueError(f"needs an accuracy in [0, 100] and at least one image, got {accuracy} and {images}")
    return math.sqrt(accuracy * (100 - accuracy) / images)


def image_error(scores: NDArray[np.float64]) -> float:
    """Return the standard error that sampling the test images adds to a mean over seeds, in percentage points.

    Closed form of the bootstrap over images. It includes the interaction of images and seeds, so it is slightly too
    large for few seeds.

    Args:
        scores: Shape (seeds, images): 1 for a correct prediction and 0 otherwise; for a difference of two arms, correct
            of the arm minus correct of the reference, which is paired by image.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores need shape (seeds, images) with two images or more, got {scores.shape}")
    return 100 * float(scores.mean(axis=0).std(ddof=1)) / math.sqrt(scores.shape[1])


def accuracy_scores(classes: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each image's contribution to the accuracy, shape (images,); their mean is the accuracy, in [0, 1]."""
    correct: NDArray[np.float64] = (classes == predicted).astype(np.float64)
    return correct


def precision_scores(classes: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each image's influence on the macro precision, shape (images,); their mean is the precision, in [0, 1].

    Linear approximation (infinitesimal jackknife). A class of the test images that is never predicted has precision 0.
    """
    known, counts = np.unique(predicted, return_counts=True)
    correct = accuracy_scores(classes, predicted)
    position = np.searchsorted(known, predicted)
    precision = np.bincount(position, weights=correct, minlength=len(known)) / counts
    outputs = len(np.union1d(classes, known))
    weight = len(classes) / (outputs * counts[position])
    scores: NDArray[np.float64] = weight * (correct - precision[position]) + precision.sum() / outputs
    return scores


def difference_error_bound(accuracy: float, reference: float, images: int) -> float:
    """Return the image-sampling error of a difference when only the accuracies (percent) are known.

    In percentage points. Assumes independent errors of the arms; since some images are hard for both, the true error is
    usually smaller.
    """
    return math.hypot(binomial_error(accuracy, images), binomial_error(reference, images))


def sources_text(*, random_class_split: bool, fixed: Sequence[str] = ()) -> str:
    """Return which sources of variation an interval over seeds contains, and which it does not.

    Args:
        random_class_split: Whether the class split differs between seeds.
        fixed: Sources among `SEED_SOURCES` that were the same for all seeds, such as an imported base.
    """
    varied = [source for source in SEED_SOURCES if source not in fixed]
    varied += ["class split"] if random_class_split else []
    constant = [*fixed, "test images", *([] if random_class_split else ["class split"])]
    return f"The interval covers variation of {', '.join(varied)}; it does not cover {', '.join(constant)}."
