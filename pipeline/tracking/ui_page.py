"""The page of MLflow's UI that `ui` opens: the runs of the experiment, with the columns that matter here.

MLflow stores a shared view of an experiment as a tag and takes its key in the link; neither is documented. Tried with
MLflow 3.17.
"""

from __future__ import annotations

import json
import logging

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.redaction import first_line
from pipeline.tracking import names

logger = logging.getLogger(__name__)

VIEW = "pipeline"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
COLUMNS = (
    f"metrics.`{names.TEST_ACCURACY}`",
    f"tags.`{names.ARM}`",
    "params.`seed`",
    f"metrics.`{names.FIT_SECONDS}`",
    "attributes.`Duration`",
)


def runs_page(client: MlflowClient, experiment_id: str) -> str:
    """Return the part of the page's URL after the server; store its columns as tags of the experiment."""
    state = {"selectedColumns": COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": False}
    page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    try:
        client.set_experiment_tag(experiment_id, KIND_TAG, MODEL_TRAINING)
        client.set_experiment_tag(experiment_id, VIEW_TAG, json.dumps(state))
    except MlflowException as error:  # without write access, the page has MLflow's own columns
        logger.warning(f"the columns of the runs page are not set: {first_line(error)}")
        return page
    return f"{page}&viewStateShareKey={VIEW}"
