"""Tables of a run's classes and predictions: images per split in the log; recall and predictions as artifacts."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.data.splits import Split
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageRun
from pipeline.training.evaluate import Evaluation

logger = logging.getLogger(__name__)

MAX_LOGGED_CLASSES = 30
MAX_RATIO = 2.0  # of the largest to the smallest class, above which a warning is logged
MAX_NAME_LENGTH = 60  # of classes in a run's name


def log_data(run: StageRun, split: Split) -> None:
    """Log the data of a run, and the images of each class."""
    run.log_split(split)
    logger.info(f"classes: {describe_classes(split)}")
    counts = split.train.counts(len(split.classes))
    small, large = min(range(len(counts)), key=counts.__getitem__), max(range(len(counts)), key=counts.__getitem__)
    if counts[large] > MAX_RATIO * counts[small]:
        logger.warning(
            f"imbalanced classes: {counts[small]} training images of {split.class_names[small]}, {counts[large]} of "
            f"{split.class_names[large]}; compare balanced accuracies"
        )


def describe_classes(split: Split) -> str:
    """Return outputs, names, and numbers of training, validation and test images."""
    rows = class_rows(split)
    parts = [f"{row[0]} = {row[1]} ({row[2]} + {row[3]} + {row[4]})" for row in rows[:MAX_LOGGED_CLASSES]]
    more = len(rows) - len(parts)
    ending = f" and {more} more, in {names.CLASS_TABLE}" if more else ""
    return f"{', '.join(parts)}{ending} (training + validation + test images)"


def class_rows(split: Split) -> list[tuple[int, str, int, int, int]]:
    """Return output number, name, and numbers of training, validation and test images of each class."""
    count = len(split.classes)
    counts = zip(*(part.counts(count) for part in (split.train, split.validation, split.test)), strict=True)
    return [(k, name, *images) for k, (name, images) in enumerate(zip(split.class_names, counts, strict=True))]


def log_class_tables(run: StageRun, split: Split, test: Evaluation) -> None:
    """Log the recall of each class, and the prediction for each test image."""
    run.log_file(write_class_table(run.folder / names.CLASS_TABLE, split, test.confusion_KK))
    run.log_file(write_test_predictions(run.folder / names.TEST_PREDICTIONS, split.test, test.predicted_N))


def write_class_table(path: Path, split: Split, confusion_KK: Tensor) -> Path:
    """Write one CSV row per class; the recall of a class without test images is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("output", "class", "train", "validation", "test", "recall"))
        for row, recall in zip(class_rows(split), recalls(confusion_KK), strict=True):
            writer.writerow((*row, "" if recall is None else recall))
    return path


def write_test_predictions(path: Path, test: Examples, predicted_N: Tensor) -> Path:
    """Write one CSV row per test image: its identity in hexadecimal, its class and the predicted one as outputs."""
    identities = [f"{identity & (1 << 64) - 1:016x}" for identity in test.ids.tolist()]
    rows = zip(identities, test.labels.tolist(), predicted_N.tolist(), strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "class", "predicted"))
        writer.writerows(rows)
    return path


def recalls(confusion_KK: Tensor) -> list[float | None]:
    """Return the recall of each class on the test images; None for a class without any."""
    pairs = zip(confusion_KK.diagonal().tolist(), confusion_KK.sum(1).tolist(), strict=True)
    return [right / count if count else None for right, count in pairs]


def recall_metrics(split: Split, confusion_KK: Tensor) -> dict[str, float]:
    """Return the number of test images, balanced accuracy and, unless there are too many classes, each recall."""
    by_class = recalls(confusion_KK)
    known = [recall for recall in by_class if recall is not None]
    metrics = {
        names.TEST_IMAGES: float(confusion_KK.sum()),
        names.BALANCED_ACCURACY: sum(known) / len(known),
    }
    if len(by_class) <= names.MAX_RECALL_METRICS:
        safe = [re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)[:100] for name in split.class_names]
        if len(set(safe)) < len(safe):
            safe = [f"{name}_{output}" for output, name in enumerate(safe)]
        pairs = zip(safe, by_class, strict=True)
        metrics |= {names.CLASS_RECALL + name: recall for name, recall in pairs if recall is not None}
    return metrics


def shortened(classes: str) -> str:
    """Return a class list for the name of a run."""
    return classes if len(classes) <= MAX_NAME_LENGTH else f"{classes[: MAX_NAME_LENGTH - 4]} ..."
