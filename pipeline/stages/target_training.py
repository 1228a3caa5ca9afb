"""The body of `transfer`, `finetune_cnn` and `scratch_cnn`: prepare, build, cache features, fit, evaluate, log."""

from __future__ import annotations

import dataclasses
import json
import logging

from torch import Tensor

from pipeline.console import echo
from pipeline.data.normalization import with_preprocessing
from pipeline.networks.build import architecture_digest, build_network
from pipeline.networks.reuse import LoadReport, reuse_network
from pipeline.params.grid import grid_values
from pipeline.params.target import NOT_FOR_SOLVED_HEADS, ReuseParams
from pipeline.params.target_stages import TargetStageParams, TransferParams
from pipeline.runtime import Runtime, generator, resolve_runtime
from pipeline.stages.augment import resolve_augment
from pipeline.stages.base_selection import base_tags
from pipeline.stages.class_table import log_data, shortened
from pipeline.stages.feature_source import feature_costs, resolve_features
from pipeline.stages.fit_settings import resolve_machine, resolve_training_runtime, settings_to_try
from pipeline.stages.strategy import solve_head_first
from pipeline.stages.target_setup import ReuseRule, TargetSetup, prepare_target, solves_head
from pipeline.stages.training_result import describe_split, finish, print_dry_run
from pipeline.stages.training_run import fit_and_evaluate, solve_and_evaluate
from pipeline.tracking import names
from pipeline.tracking.cache_key import CacheKey, cache_key
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.result_cache import cached_step_result
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import Client, open_store
from pipeline.training.features import feature_operations
from pipeline.training.head_fit import HeadFit

logger = logging.getLogger(__name__)


def train_on_target(
    params: TargetStageParams,
    rule: ReuseRule,
    *,
    plan_context: PlanContext | None = None,
    resumed_run_id: str | None = None,
) -> StageResult:
    """Train a network on target classes as one MLflow run; `rule` decides which blocks are copied from a base."""
    client = open_store()
    setup = prepare_target(params, client, rule)
    runtime = resolve_target_runtime(params, setup)
    params = resolve_auto(params, setup, runtime)
    log_setup(setup)
    if setup.base is None and setup.reuse.copied:
        assert params.dry_run, "only a dry run has no base to copy from"
        return print_dry_run(params, setup.data.split, f"network: {setup.architecture.model_dump_json()}")
    key = result_key(params, setup, runtime)
    if not params.dry_run and (cached := cached_step_result(plan_context, key, params.register_as)) is not None:
        return cached
    with runtime.in_effect():
        return _train(params, setup, runtime, key=key, client=client, plan_context=plan_context, resumed=resumed_run_id)


def _train(
    params: TargetStageParams,
    setup: TargetSetup,
    runtime: Runtime,
    *,
    key: CacheKey,
    client: Client,
    plan_context: PlanContext | None,
    resumed: str | None,
) -> StageResult:
    base_network = setup.base.network if setup.base else None
    rng = generator(params.seed, "weights")
    network, report = reuse_network(setup.architecture, base_network, setup.reuse, generator=rng, source=setup.source)
    network.to(runtime.device)
    logger.info(str(report))
    feature_source = resolve_features(params, setup, network, client=client)
    if params.dry_run:
        return print_dry_run(params, setup.data.split, f"network: {setup.architecture.model_dump_json()}")
    with stage_run(
        params,
        name=run_name(params, setup),
        note=describe_run(setup),
        tags={**key.tags(), **setup_tags(setup)},
        plan_context=plan_context,
        resumed_run_id=resumed,
    ) as run:
        log_inputs(run, setup, report)
        features = feature_source(run)
        costs = {names.EXCLUDED_TEST_IMAGES: float(setup.data.split.excluded)}
        if solves_head(params):
            costs |= {names.FEATURES_SECONDS: features.seconds} if features else {}
            trained = solve_and_evaluate(run, network, setup.data.split, features=features)
        else:
            settings, copied = settings_to_try(params, runtime), setup.reuse.copied
            costs |= feature_costs(features, network, setup, batch_size=settings[0].batch_size)
            split = setup.data.split
            head = solve_head_first(network, split, features) if getattr(params, "strategy", "") == "lp_ft" else None
            trained = fit_and_evaluate(run, network, split, settings=settings, copied=copied, features=features)
            costs |= head_costs(head, trained.summary.metrics[names.FIT_SECONDS])
        seconds, seen = setup.data.seconds, seen_ids(setup)
        result = finish(run, trained, params, data_seconds=seconds, extra_metrics=costs, seen_before=seen)
        print_gain(setup, result)
        return result


def head_costs(head: HeadFit | None, fit_seconds: float) -> dict[str, float]:
    """Return the time of a head that was solved before fine-tuning, and the training time that includes it."""
    if head is None:
        return {}
    return {names.HEAD_SECONDS: head.seconds, names.FIT_SECONDS: fit_seconds + head.seconds}


def resolve_target_runtime(params: TargetStageParams, setup: TargetSetup) -> Runtime:
    """Resolve device, precision and threads; with cached features, only the blocks above them count as work."""
    network = build_network(setup.architecture, generator(params.seed, "weights"), setup.source)
    network.train_only(setup.reuse.trained)
    cached = isinstance(params, ReuseParams) and params.features != "none"
    start = setup.reuse.frozen if cached else 0
    if solves_head(params):
        operations = 0 if cached else feature_operations(network, setup.reuse.frozen, setup.data.split.train)
        return resolve_runtime(params.device, "float32", params.threads, operations=operations)
    batch_size = int(setup.budget()["batch_size"] if params.batch_size == "auto" else params.batch_size)
    return resolve_training_runtime(params, network, batch_size, start=start)


def resolve_auto(params: TargetStageParams, setup: TargetSetup, runtime: Runtime) -> TargetStageParams:
    """Return the parameters as they are logged: every auto replaced by its value, None where one does not apply."""
    resolved: dict[str, object] = {"per_class": setup.data.per_class, "classes": setup.data.split.classes_text}
    if setup.base is not None:
        resolved["base"] = setup.base.model_uri
    validation = setup.data.split.validation.labels.bincount()
    if params.val_per_class == "auto" and len(validation.unique()) == 1:
        resolved["val_per_class"] = int(validation[0])
    resolved |= {name: value for name, value in setup.budget().items() if getattr(params, name) == "auto"}
    resolved["augment"] = resolve_augment(params, setup.data.split, frozen=setup.reuse.frozen)
    if isinstance(params, TransferParams):
        resolved["reuse_layers"] = setup.reuse.copied
        if isinstance(params.unfreeze, str):
            resolved["unfreeze"] = setup.reuse.copied - setup.reuse.frozen
        resolved["upper"] = "fresh" if setup.reuse.depth > setup.reuse.copied else "drop"
        resolved["train_blocks"] = ",".join(map(str, setup.reuse.train_blocks)) or None
    resolved |= dict.fromkeys(NOT_FOR_SOLVED_HEADS if solves_head(params) else grid_values(params.tune_on_validation))
    params = with_preprocessing(params, setup.architecture.preprocessing)
    return resolve_machine(params, setup.data.split, runtime).model_copy(update=resolved)


def result_key(params: TargetStageParams, setup: TargetSetup, runtime: Runtime) -> CacheKey:
    """Return the cache key; training from scratch depends on the base's architecture, but not on its weights."""
    inputs = {
        "data": setup.data.split.digest,
        "base": setup.base.digest if setup.base and setup.reuse.copied else "",
        "architecture": architecture_digest(setup.architecture),
    }
    return cache_key(params, inputs, runtime.description)


def seen_ids(setup: TargetSetup) -> Tensor | None:
    """Return identities of images that the base, or one of its bases, was trained on, if its weights are used."""
    return setup.base.seen_ids if setup.base is not None and setup.reuse.copied else None


def log_setup(setup: TargetSetup) -> None:
    """Log data, base and reuse."""
    logger.info(f"data: {setup.data.split.note}")
    if setup.base is not None:
        logger.info(f"{setup.base.ancestry}, {setup.base.why}")
        if setup.base.is_imported:
            logger.info("the base's own training images are unknown: leakage from them cannot be checked")
    logger.info(f"reuse: {setup.reuse}")
    if setup.reuse.keeps_head:
        logger.info("the base has the target classes: its training continues, with its head and its label sample")
    if setup.overlap:
        logger.warning(f"the base was already trained on target classes {', '.join(setup.overlap)}")


def run_name(params: TargetStageParams, setup: TargetSetup) -> str:
    """Return the name of the run, with what distinguishes arms first: a table shows some 14 characters.

    Such as `4/5 frozen s0: transfer 5-9, 100/class, cached, seed 0`: 5 blocks copied, 4 of them frozen.
    """
    reuse = setup.reuse
    frozen = reuse.copied - sum(index < reuse.copied for index in reuse.trained)
    first = f"{frozen}/{reuse.copied} frozen" if reuse.copied else "scratch"
    labels = "all labels" if params.per_class == "all" else f"{params.per_class}/class"
    details = [
        f"{params.entry_point} {shortened(params.classes)}",
        labels,
        f"trained {', '.join(map(str, reuse.train_blocks))}" if reuse.train_blocks else "",
        "continued" if reuse.keeps_head else "",
        "cached" if isinstance(params, ReuseParams) and params.features != "none" else "",
        "solved head" if solves_head(params) else "",
        f"seed {params.seed}",
    ]
    return f"{first} s{params.seed}: {', '.join(filter(None, details))}"


def describe_run(setup: TargetSetup) -> str:
    """Return the run's note."""
    base = f" Base: {setup.base.ancestry.removeprefix('base ')}." if setup.base else ""
    return f"Network for {describe_split(setup.data.split)}. Reuse: {setup.reuse}.{base}"


def setup_tags(setup: TargetSetup) -> dict[str, object]:
    """Return the tags about the base and the label sample."""
    tags = base_tags(setup.base) if setup.base else {}
    if setup.overlap:
        tags[names.CLASS_OVERLAP] = ",".join(setup.overlap)
    if setup.data.inherited:
        tags[names.INHERITED_LABELS] = "true"
    return tags


def log_inputs(run: StageRun, setup: TargetSetup, report: LoadReport) -> None:
    """Log data, base and which tensors were loaded."""
    log_data(run, setup.data.split)
    if setup.base is not None:
        run.log_base(setup.base.model_uri)
    path = run.folder / names.LOAD_REPORT
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1), encoding="utf-8")
    run.log_file(path)


def print_gain(setup: TargetSetup, result: StageResult) -> None:
    """Print the change in test accuracy if the base's training was continued."""
    if setup.reuse.keeps_head and setup.base is not None:
        gain = 100 * (result.metrics[names.TEST_ACCURACY] - setup.base.test_accuracy)
        echo(f"test accuracy vs. the base (run {setup.base.run_id}): {gain:+.2f} pp")
