"""Finished steps are recognised, and why or why not can be told; a step of a study knows its study by `PlanContext`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.tracking import names
from pipeline.tracking.base_model import model_is_whole
from pipeline.tracking.cache_key import CacheKey
from pipeline.tracking.outbox.model_upload import register_model
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import active_experiment_id, first_line, holds_runs_of_this_process, open_store

logger = logging.getLogger(__name__)

MAX_SEARCHED_RUNS = 200  # runs among which the likest one is looked for


class PlanContext:
    """The study that a step belongs to: takes finished results, and opens the study's run when a step is run.

    Args:
        parent: Opens the study's run where it is not open yet, and returns its id.
        rerun: Recognise nothing.

    Attributes:
        why: Why the last step was recognised or not, in words.
    """

    def __init__(self, parent: Callable[[], str], *, rerun: bool = False):
        self._parent = parent
        self.rerun = rerun
        self.why = ""

    @property
    def parent_run_id(self) -> str:
        """The study's run."""
        return self._parent()

    def cached_result(self, key: CacheKey) -> StageResult | None:
        """Return the finished result with a key, None where the step is to be run."""
        client = open_store()
        try:
            found = None if self.rerun else find_cached_result(client, key)
        except MlflowException as error:
            if not holds_runs_of_this_process():
                raise
            self.why = f"miss: the tracking store does not answer now ({first_line(error)})"
            return None
        if found is not None:
            self.why = f"hit: run {found.run_id} has this key"
        else:
            self.why = "miss: all is run again" if self.rerun else f"miss: {explain_cache_miss(client, key)}"
        return found


def cached_step_result(plan_context: PlanContext | None, key: CacheKey, register_as: str = "") -> StageResult | None:
    """Return a step's finished result, where it belongs to a study that knows one; its model is then registered."""
    done = plan_context.cached_result(key) if plan_context is not None else None
    if done is not None:
        register_cached(done, register_as)
    return done


def register_cached(done: StageResult, name: str) -> None:
    """Register the model of a cached result, as its stage would have done; nothing without a name or a model."""
    if name and done.model_uri:
        wanted = {"name": name, "val_accuracy": done.metrics[names.VAL_FINAL_ACCURACY]}
        logger.info(register_model(open_store(), done.run_id, done.model_uri, wanted))


def parent_run_of(plan_context: PlanContext | None) -> str | None:
    """Return the run that a step's run is nested in, opened by now; None for a stage on its own."""
    return plan_context.parent_run_id if plan_context is not None else None


def find_cached_result(client: MlflowClient, key: CacheKey) -> StageResult | None:
    """Return the result of a finished run with a key, its artifacts still there; None where there is none."""
    for run in _search(client, f"attributes.status = 'FINISHED' and tags.{names.CACHE_KEY} = '{key.digest}'"):
        if not _what_is_gone(client, run):
            uri = run.data.tags.get(names.MODEL_URI, "")
            return StageResult(run.info.run_id, uri, dict(run.data.metrics), reused=True)
    return None


def find_plan_run(client: MlflowClient, digest: str) -> str:
    """Return the newest finished run of a study with a digest, an empty string where there is none."""
    for run in _search(client, f"attributes.status = 'FINISHED' and tags.{names.PLAN_DIGEST} = '{digest}'"):
        return str(run.info.run_id)
    return ""


def explain_cache_miss(client: MlflowClient, key: CacheKey) -> str:
    """Say why no finished result has a key: what differs from the likest earlier run, or what became of its own."""
    own = _search(client, f"tags.{names.CACHE_KEY} = '{key.digest}'")
    for run in own:
        if run.info.status != "FINISHED":
            return f"run {run.info.run_id} has this key and is {run.info.status}"
        if gone := _what_is_gone(client, run):
            return f"run {run.info.run_id} has this key, and {gone}"
    likest: list[str] | None = None
    for run in _search(client, f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{key.stage}'"):
        try:
            differences = key.differences(json.loads(run.data.tags[names.KEY_PARTS]))
        except (KeyError, ValueError):
            continue
        if likest is None or _weight(differences) < _weight(likest):
            likest = differences
    return "changed are " + "; ".join(likest) if likest else "no finished run of this stage is known"


def _weight(differences: list[str]) -> int:
    """Return how unlike two keys are: parameters tell arms apart, so they weigh most."""
    return sum(line.count(",") + (100 if line.startswith("params") else 1) for line in differences)


def _search(client: MlflowClient, condition: str) -> list[Run]:
    return list(
        client.search_runs(
            [active_experiment_id()], condition, max_results=MAX_SEARCHED_RUNS, order_by=["attributes.end_time DESC"]
        )
    )


def _what_is_gone(client: MlflowClient, run: Run) -> str:
    """Return what a finished run no longer has, or an empty string."""
    uri = run.data.tags.get(names.MODEL_URI, "")
    if uri and not model_is_whole(client, uri):
        return f"its model {uri} is gone"
    if names.FEATURES_FINGERPRINT in run.data.tags and run.data.tags.get(names.STAGE) == "cache_features":
        try:
            listed = {item.path for item in client.list_artifacts(run.info.run_id, names.FEATURES)}
        except MlflowException:
            listed = set()
        if f"{names.FEATURES}/{names.FEATURES_FILE}" not in listed:
            return "its features are gone"
    return ""
