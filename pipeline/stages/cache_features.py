"""`cache_features`: run the target images through a base's first blocks once, and log the outputs as an artifact.

    python -m pipeline cache_features --classes 5-9

The artifact has all training images of the target classes, so it serves every label sample and every seed.
"""  # fmt: skip

from __future__ import annotations

import json
import logging

from pipeline.console import echo
from pipeline.data.examples import Examples, training_examples
from pipeline.data.normalization import with_preprocessing
from pipeline.errors import Fault, UserInputError
from pipeline.params import CacheFeaturesParams
from pipeline.params.data import format_class_names
from pipeline.params.family import FAMILY_DEFAULTS
from pipeline.runtime import Runtime, resolve_runtime
from pipeline.stages.base_selection import choose_target, train_first
from pipeline.stages.class_table import shortened
from pipeline.stages.cut_pass import pass_run, prepare_pass
from pipeline.stages.data_loading import load_data
from pipeline.stages.next_command import after_features
from pipeline.tracking import names
from pipeline.tracking.base_model import Base
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.feature_artifacts import check_size, log_features
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.result_cache import cached_step_result
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import open_store
from pipeline.training.features import Features, compute_features, feature_operations

logger = logging.getLogger(__name__)


def cache_features(params: CacheFeaturesParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Compute the outputs of the first `depth` blocks for all target images, or pooled ones of `cuts`; no model."""
    if params.cuts:
        return cache_cuts(params, plan_context)
    params, base, examples, runtime = resolve_inputs(params)
    if params.dry_run:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: would compute features of {len(examples)} images after block {params.depth}")
        return StageResult("", "", {})
    assert base is not None, "only a dry run has no base"
    depth = int(params.depth)
    check_size(base.network, depth, examples)
    key = cache_key(params, {"data": examples.digest, **base.key_inputs}, runtime.description)
    if (cached := cached_step_result(plan_context, key)) is not None:
        return cached
    name = f"features {shortened(params.classes)}, after block {depth}"
    note = f"Outputs of block {depth} for all training images of classes {params.classes}."
    with pass_run(params, base, key, name=name, note=note, runtime=runtime, plan_context=plan_context) as run:
        features = compute_features(base.network.to(runtime.device), depth, examples, folder=run.folder)
        log_result(run, features)
        echo(f"next: python -m pipeline {after_features(base, params, run.run_id, depth=depth)}")
        return StageResult(run.run_id, "", dict(run.final_metrics))


def cache_cuts(params: CacheFeaturesParams, plan_context: PlanContext | None) -> StageResult:
    """Compute the pooled outputs of several blocks in one pass over all images that the label samples need."""
    params, images = prepare_pass(params, seeds=range(params.seed, params.seed + params.draws), with_test=True)
    if params.dry_run or images is None:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: would compute pooled features of {images.images if images else 'the target'} images")
        return StageResult("", "", {})
    base = images.base
    inputs = {"data": " ".join(part.digest for part in images.parts), **base.key_inputs}
    key = cache_key(params, inputs, images.runtime.description)
    if (cached := cached_step_result(plan_context, key)) is not None:
        return cached
    name = f"features {shortened(params.classes)}, cuts {shortened(params.cuts)}"
    note = f"Pooled outputs of blocks {params.cuts} for images of classes {params.classes}."
    with pass_run(params, base, key, name=name, note=note, runtime=images.runtime, plan_context=plan_context) as run:
        features = images.compute(run)
        log_metrics(run, features.seconds, images.images, size=sum(t.nbytes for t in features.tensors.values()))
        command = after_features(base, params, "auto", depth=images.cuts[-1])
        echo(f"next: python -m pipeline {command}")
        return StageResult(run.run_id, "", dict(run.final_metrics))


def resolve_inputs(params: CacheFeaturesParams) -> tuple[CacheFeaturesParams, Base | None, Examples, Runtime]:
    """Return the resolved parameters, the base (None in a dry run without one), the target images and the runtime.

    Raises:
        UserInputError: The base is invalid, or has fewer than `depth` blocks.
    """
    client = open_store()
    min_depth = 1 if params.depth == "all" else params.depth
    target = choose_target(params, client, depth=min_depth, needs_base=True)
    base, dataset = target.base, target.dataset
    blocks: int = base.network.architecture.depth if base else FAMILY_DEFAULTS["mlp"]["hidden_layers"]
    if min_depth > blocks:
        allowed = f"must be between 1 and {blocks} (the base has {blocks} blocks)."
        raise UserInputError(Fault("depth", min_depth, allowed, "Use depth=all for all of them."))
    if base is None and (base := train_first(params, target, client)) is not None:
        dataset = load_data(params, dataset=dataset.name, geometry=base.network.architecture.preprocessing.geometry)
    examples = training_examples(dataset, target.classes)
    logger.info(f"data: {dataset.note}")
    if base is not None:
        logger.info(f"{base.ancestry}, {base.why}")
    depth = blocks if params.depth == "all" else params.depth
    operations = feature_operations(base.network, depth, examples) if base else 0
    runtime = resolve_runtime(params.device, "float32", params.threads, operations=operations)
    resolved = {
        "base": base.model_uri if base else "auto",
        "depth": depth,
        "dataset": dataset.name,
        "classes": format_class_names(target.class_names, target.classes),
        "device": str(runtime.device),
        "threads": runtime.threads,
    }
    if base is not None:
        params = with_preprocessing(params, base.network.architecture.preprocessing)
    return params.model_copy(update=resolved), base, examples, runtime


def log_result(run: StageRun, features: Features) -> None:
    """Log the artifact, its fingerprint and the metrics."""
    log_features(run, features)
    run.set_tags({f"features_{part}": value for part, value in features.fingerprint.items()})
    log_metrics(run, features.seconds, len(features.values), size=features.values.nbytes)


def log_metrics(run: StageRun, seconds: float, images: int, *, size: int) -> None:
    """Log and print time, number of images and bytes, and print the run id."""
    run.log_final(
        {
            names.FEATURES_SECONDS: seconds,
            names.TOTAL_SECONDS: run.elapsed_seconds(),
            "features/images": images,
            "features/bytes": size,
        }
    )
    echo(f"features of {images} images, {size / 2**20:.1f} MiB, computed in {seconds:.2f} s")
    echo(f"run {run.run_id}")
