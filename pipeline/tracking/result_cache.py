"""Cached results: look up finished runs by cache key, and explain cache hits and misses."""

from __future__ import annotations

import contextlib
import functools
import json
import logging

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.base_search import has_model_files
from pipeline.tracking.cache_key import CacheKey
from pipeline.tracking.claims import open_claims
from pipeline.tracking.graph_export import add_graph, is_servable
from pipeline.tracking.outbox.model_upload import register_model
from pipeline.tracking.plan_context import NotCachedError, PlanContext
from pipeline.tracking.queries import artifact_sizes
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import active_experiment_id, holds_runs_of_this_process, open_store, search_newest_runs

logger = logging.getLogger(__name__)

MAX_SEARCHED_RUNS = 200


def cached_step_result(plan_context: PlanContext | None, key: CacheKey, register_as: str = "") -> StageResult | None:
    """Return the cached result of a plan step and register its model; None outside a plan or on a cache miss.

    On a cache miss, the step is claimed for this process.

    Raises:
        NotCachedError: There is none, and only a cached result was requested.
        ClaimedElsewhereError: Another process runs the step.
    """
    if plan_context is None:
        return None
    client = open_store()
    try:
        result = None if plan_context.rerun else find_cached_result(client, key)
    except MlflowException as error:
        if not holds_runs_of_this_process():
            raise
        plan_context.why = f"cache miss: tracking store unreachable ({first_line(error)})"
        return None
    if result is None:
        if plan_context.parent_run_id is None:
            raise NotCachedError
        plan_context.why = f"cache miss: {'rerun=true' if plan_context.rerun else explain_cache_miss(client, key)}"
        result = claim_step(plan_context, client, key)
    if result is None:
        return None
    plan_context.why = f"cache hit: run {result.run_id}"
    register_cached(result, register_as)
    return result


def claim_step(plan_context: PlanContext, client: MlflowClient, key: CacheKey) -> StageResult | None:
    """Claim a step for this process; return its result if its last holder has completed it in the meantime."""
    claim = open_claims().acquire(f"{store_scope(client, active_experiment_id())} {key.digest}")
    plan_context.claim = claim
    completed = claim.previous_run_id and not plan_context.rerun
    result = find_cached_result(client, key) if completed else None
    if result is not None:
        claim.release()
    return result


@functools.cache
def store_scope(client: MlflowClient, experiment_id: str) -> str:
    """Return a key that distinguishes an experiment from those of other tracking stores, independent of their URIs."""
    experiment = client.get_experiment(experiment_id)
    return f"{experiment_id} {experiment.creation_time}"


def register_cached(result: StageResult, name: str) -> None:
    """Register the model of a cached result as its stage would have done; does nothing without a name or a model.

    A registered model can be served, so it gets a graph if it has none.
    """
    if name and result.model_uri:
        val_accuracy = result.metrics[names.VAL_FINAL_ACCURACY]
        client = open_store()
        if not is_servable(client, client.get_logged_model(result.model_uri.removeprefix("models:/"))):
            add_graph(client, load_base(client, result.model_uri))
        logger.info(register_model(client, result.run_id, result.model_uri, name=name, val_accuracy=val_accuracy))


def find_cached_result(client: MlflowClient, key: CacheKey) -> StageResult | None:
    """Return the result of a FINISHED run with this cache key whose artifacts still exist, or None."""
    condition = f"attributes.status = 'FINISHED' and tags.{names.CACHE_KEY} = '{key.digest}'"
    for run in search_newest_runs(client, condition, limit=MAX_SEARCHED_RUNS):
        if names.SUPERSEDED_BY not in run.data.tags and not _missing_artifact(client, run):
            uri = run.data.tags.get(names.MODEL_URI, "")
            return StageResult(run.info.run_id, uri, dict(run.data.metrics), reused=True)
    return None


def find_plan_run(client: MlflowClient, digest: str) -> str:
    """Return the newest FINISHED plan run with a digest, or an empty string."""
    condition = f"attributes.status = 'FINISHED' and tags.{names.PLAN_DIGEST} = '{digest}'"
    return next((str(run.info.run_id) for run in search_newest_runs(client, condition, limit=1)), "")


def explain_cache_miss(client: MlflowClient, key: CacheKey) -> str:
    """Explain a cache miss: why a run with this key is unusable, or what has changed since the closest run."""
    for run in search_newest_runs(client, f"tags.{names.CACHE_KEY} = '{key.digest}'", limit=MAX_SEARCHED_RUNS):
        if run.info.status != "FINISHED":
            return f"run {run.info.run_id} has the same key but is {run.info.status}"
        if missing := _missing_artifact(client, run):
            return f"run {run.info.run_id} has the same key but its {missing} is missing"
    candidates: list[dict[str, list[str]]] = []
    condition = f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{key.stage}'"
    for run in search_newest_runs(client, condition, limit=MAX_SEARCHED_RUNS):
        try:
            candidates.append(key.changes_since(json.loads(run.data.tags[names.KEY_PARTS])))
        except (KeyError, ValueError):
            continue
    # arms of a plan differ in parameters, so a run with the same parameters is closest
    closest = min(candidates, key=lambda parts: ("params" in parts, sum(map(len, parts.values()))), default={})
    return "; ".join(change for changes in closest.values() for change in changes) or "no finished run of this stage"


def _missing_artifact(client: MlflowClient, run: Run) -> str:
    """Return the artifact of a finished run that no longer exists, or an empty string."""
    uri = run.data.tags.get(names.MODEL_URI, "")
    if uri and not has_model_files(client, uri):
        return f"model {uri}"
    if names.FEATURES_FINGERPRINT in run.data.tags and run.data.tags.get(names.STAGE) == "cache_features":
        with contextlib.suppress(MlflowException):
            if f"{names.FEATURES}/{names.FEATURES_FILE}" in artifact_sizes(client, run.info.run_id, names.FEATURES):
                return ""
        return "features artifact"
    return ""
