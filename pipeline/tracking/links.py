"""Addresses of pages in the MLflow UI, where a tracking server is named."""

from __future__ import annotations

import json
from urllib.parse import quote

import mlflow

from pipeline.tracking import names
from pipeline.tracking.run import StageRun

MAX_SIBLINGS = 6


def compare_link(run: StageRun) -> str:
    """Return the page that compares a run with its sibling arms; empty without a tracking server.

    Siblings are the runs of the same parent, or else the newest finished runs on the same data and classes.
    """
    server = mlflow.get_tracking_uri().rstrip("/")
    if not server.startswith(("http://", "https://")):
        return ""
    tags = run.client.get_run(run.run_id).data.tags
    if parent := tags.get(names.PARENT_RUN_ID):
        alike = f"tags.`{names.PARENT_RUN_ID}` = '{parent}'"
    else:
        alike = f"tags.{names.DATASET} = '{tags[names.DATASET]}' and tags.{names.CLASSES} = '{tags[names.CLASSES]}'"
    found = run.client.search_runs(
        [run.experiment_id], f"attributes.status = 'FINISHED' and {alike}", max_results=MAX_SIBLINGS
    )
    siblings = [run.run_id, *(other.info.run_id for other in found if other.info.run_id != run.run_id)]
    if len(siblings) == 1:
        return f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    runs, experiments = quote(json.dumps(siblings)), quote(json.dumps([run.experiment_id]))
    return f"{server}/#/compare-runs?runs={runs}&experiments={experiments}"
