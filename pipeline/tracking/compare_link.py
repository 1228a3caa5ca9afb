"""Addresses of pages in the MLflow UI, where a tracking server is named."""

from __future__ import annotations

import json
from urllib.parse import quote

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.tracking import names
from pipeline.tracking.stage_run import StageRun

MAX_SIBLINGS = 6
SEARCHED_RUNS = 200


def compare_link(run: StageRun) -> str:
    """Return the page that compares a run with its sibling arms; empty without a tracking server.

    Siblings are the runs of the same parent, or else the newest finished runs on the same data and classes.
    """
    server = mlflow.get_tracking_uri().rstrip("/")
    if not server.startswith(("http://", "https://")):
        return ""
    try:
        tags = run.client.get_run(run.sender.run_id).data.tags
        found = run.client.search_runs([run.experiment_id], "attributes.status = 'FINISHED'", max_results=SEARCHED_RUNS)
    except MlflowException:
        return ""  # a link is not worth a run
    same = (names.PARENT_RUN_ID,) if names.PARENT_RUN_ID in tags else (names.DATASET, names.CLASSES)
    alike = [other for other in found if all(other.data.tags.get(name) == tags.get(name) for name in same)]
    others = [other.info.run_id for other in alike if other.info.run_id != run.sender.run_id]
    siblings = [run.sender.run_id, *others[: MAX_SIBLINGS - 1]]
    if len(siblings) == 1:
        return f"{server}/#/experiments/{run.experiment_id}/runs/{run.sender.run_id}"
    runs, experiments = quote(json.dumps(siblings)), quote(json.dumps([run.experiment_id]))
    return f"{server}/#/compare-runs?runs={runs}&experiments={experiments}"
