"""Finds the newest base in the tracking store that meets the requirements of a stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException

from pipeline.data.classes import select_classes
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserInputError
from pipeline.params import Family
from pipeline.tracking import names
from pipeline.tracking.base_model import Base, load_logged
from pipeline.tracking.model_import import MAX_BYTES, invalid_base
from pipeline.tracking.store import search_newest_runs

logger = logging.getLogger(__name__)

BASE_STAGES = ("train_base", "tune")
FAR_BELOW = 0.02  # difference in test accuracy from the best base of the same kind that is warned about


@dataclass(frozen=True)
class BaseQuery:
    """Requirements for a base.

    Attributes:
        dataset: Name of its dataset.
        class_names: All classes of that dataset.
        depth: Minimum number of blocks.
        accepts_classes: Returns whether class names are acceptable.
        accepts_preprocessing: Returns whether preprocessing is acceptable.
    """

    family: Family
    dataset: str
    class_names: tuple[str, ...]
    depth: int
    accepts_classes: Callable[[tuple[str, ...]], bool]
    accepts_preprocessing: Callable[[Preprocessing], bool]

    def accepts(self, base: Base) -> bool:
        """Return whether a loaded base is acceptable."""
        return self.accepts_classes(base.classes) and self.accepts_preprocessing(
            base.network.architecture.preprocessing
        )


def find_base(client: MlflowClient, query: BaseQuery) -> Base | None:
    """Return the newest finished base of the active experiment that meets the requirements, or None.

    Damaged bases are skipped with a log line.
    """
    runs = [
        run
        for stage in BASE_STAGES
        for run in search_newest_runs(client, f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{stage}'")
    ]
    required = {"family": query.family, names.DATASET: query.dataset, names.FORMAT: names.FORMAT_VERSION}
    why = f"the newest finished {query.family} base on {query.dataset} with other classes"
    for run in sorted(runs, key=lambda run: -(run.info.end_time or 0)):
        model = ready_model(client, run.data.tags.get(names.MODEL_URI, ""))
        if model is None or any(model.tags.get(name) != value for name, value in required.items()):
            continue
        reference = f"models:/{model.model_id}"
        try:
            base_classes, depth = _tagged_classes_and_depth(model, reference, query.class_names)
            if depth >= query.depth and query.accepts_classes(base_classes):
                base = load_logged(client, model, reference, why=why)
                if query.accepts(base):
                    warn_if_far_below(base, run, runs)
                    return base
        except UserInputError as error:
            logger.info(f"skipped: {error}")
    return None


def warn_if_far_below(base: Base, base_run: Run, runs: Sequence[Run]) -> None:
    """Log a warning if another base with the same kind of network, data and classes is much more accurate."""
    rivals = [run for run in runs if _kind(run) == _kind(base_run) and names.MODEL_URI in run.data.tags]
    best = max(rivals, key=lambda run: run.data.metrics.get(names.TEST_ACCURACY, 0.0))
    accuracy = best.data.metrics.get(names.TEST_ACCURACY, 0.0)
    if accuracy - base.test_accuracy > FAR_BELOW:
        other = f"{best.data.tags[names.MODEL_URI]} of run {best.info.run_id}"
        logger.warning(
            f"the newest base, {base.model_uri}, has {100 * base.test_accuracy:.2f} % test accuracy, but {other} has "
            f"{100 * accuracy:.2f} % on the same classes. To use that one, pass it as base"
        )


def _kind(run: Run) -> tuple[str | None, ...]:
    return (run.data.params.get("model"), run.data.tags.get(names.DATASET), run.data.tags.get(names.CLASSES))


def ready_model(client: MlflowClient, uri: str) -> LoggedModel | None:
    """Return the logged model `models:/m-...` if it exists and is READY."""
    try:
        model = client.get_logged_model(uri.removeprefix("models:/")) if uri else None
    except MlflowException:
        return None
    return model if model is not None and str(model.status) == "READY" else None


def has_model_files(client: MlflowClient, uri: str) -> bool:
    """Return whether a logged model is READY and has the files that later stages read."""
    model = ready_model(client, uri)
    if model is None:
        return False
    try:
        items = client.list_logged_model_artifacts(model.model_id, names.EXTRA_FILES)
    except (MlflowException, OSError):
        return False
    return set(MAX_BYTES) <= {item.path.rsplit("/", 1)[-1] for item in items}


def _tagged_classes_and_depth(
    model: LoggedModel, reference: str, class_names: tuple[str, ...]
) -> tuple[tuple[str, ...], int]:
    """Return the names of a model's classes and its depth, without downloading it."""
    try:
        indices = select_classes(model.tags[names.CLASSES], class_names, model.tags[names.DATASET])
        return tuple(class_names[index] for index in indices), int(model.tags["depth"])
    except (KeyError, ValueError):
        raise invalid_base(reference, "not a model of this project: no valid classes and depth tags.") from None
