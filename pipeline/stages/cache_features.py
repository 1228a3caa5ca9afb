"""`cache_features`: run the target images through a base's first blocks, once, and keep the outputs.

    python -m pipeline cache_features --classes 5-9

One artifact serves every draw of labels and every seed: it holds all training images of the target classes.
"""  # fmt: skip

from __future__ import annotations

import json
import logging

from pipeline.console import echo
from pipeline.data.splits import choose_classes
from pipeline.errors import Fault, UserInputError
from pipeline.params import CacheFeaturesParams
from pipeline.params.family import FAMILY_DEFAULTS
from pipeline.runtime import resolve_runtime
from pipeline.stages.base_selection import choose_dataset, newest_base, train_first
from pipeline.tracking import names
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.feature_artifacts import check_size, log_features
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.result_cache import PlanContext, cached_step_result, parent_run_of
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store
from pipeline.training.features import compute_features, feature_operations

logger = logging.getLogger(__name__)


def cache_features(params: CacheFeaturesParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Compute the features of all target images at one cut, and log them with what they depend on.

    Args:
        params: Which base, which classes, how many blocks.
        plan_context: Of the plan run that this step belongs to; cached results are reused.

    Returns:
        The run's id (what `features` takes), no model, and the seconds it took.

    Raises:
        UserInputError: The base cannot be had, or has fewer blocks; no run was made.
    """
    client = open_store()
    dataset, base = choose_dataset(params, client)
    examples = choose_classes(dataset.train, params.class_numbers, dataset)
    least = 1 if params.depth == "all" else params.depth
    base = base or newest_base(params, client, dataset, depth=least)
    default = FAMILY_DEFAULTS["mlp"]["hidden_layers"]
    blocks = base.network.architecture.depth if base else default
    if least > blocks:
        raise UserInputError(Fault("depth", least, f"the base has {blocks} blocks.", f"Choose from 1 to {blocks}."))
    base = base or train_first(params, dataset, client)
    depth = blocks if params.depth == "all" else params.depth
    logger.info(f"data: {dataset.note}")
    if base is not None:
        logger.info(f"{base.ancestry}, {base.why}")
    operations = feature_operations(base.network, depth, examples) if base else 0
    runtime = resolve_runtime(params.device, "float32", params.threads, operations=operations)
    resolved = {"base": base.model_uri if base else "auto", "depth": depth, "dataset": dataset.name}
    params = params.model_copy(update={**resolved, "device": str(runtime.device), "threads": runtime.threads})
    if params.dry_run:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: the features of {len(examples)} images would be computed above block {depth}")
        return StageResult("", "", {})
    assert base is not None, "without a dry run there is a base by now"
    check_size(base.network, depth, examples)

    note = f"Outputs of the first {depth} blocks for all training images of classes {params.classes}. {base.ancestry}."
    key = cache_key(params, {"data": examples.digest, "base": base.digest}, runtime.description)
    if (done := cached_step_result(plan_context, key)) is not None:
        return done
    tags = {
        **key.tags(),
        names.DATASET: dataset.name,
        names.CLASSES: params.classes,
        names.BASE_MODEL_URI: base.model_uri,
        names.BASE_RUN_ID: base.run_id,
        names.ANCESTRY: base.ancestry,
    }
    name = f"features {params.classes} above block {depth}"
    opened = stage_run(params, name=name, note=note, tags=tags, parent_run_id=parent_run_of(plan_context))
    with runtime.in_effect(), opened as run:
        run.log_base(base.model_uri)
        features = compute_features(base.network.to(runtime.device), depth, examples)
        log_features(run, features)
        run.set_tags({f"features_{part}": value for part, value in features.fingerprint.items()})
        run.log_final(
            {
                names.FEATURES_SECONDS: features.seconds,
                names.TOTAL_SECONDS: run.elapsed_seconds(),
                "features/images": len(examples),
                "features/bytes": features.values.nbytes,
            }
        )
        echo(
            f"features of {len(examples)} images, {features.values.nbytes / 2**20:.1f} MiB, in {features.seconds:.2f} s"
        )
        echo(f"run {run.run_id}")
        cut = f"--unfreeze {blocks - depth}" if base.network.architecture.family == "mlp" else f"--frozen {depth}"
        stage = "transfer" if base.network.architecture.family == "mlp" else "finetune_cnn"
        more = f"--classes {params.classes} {cut} --features {run.run_id}"
        echo(f"next: python -m pipeline {stage} --base {base.model_uri} {more}")
        return StageResult(run.run_id, "", dict(run.final_metrics))
