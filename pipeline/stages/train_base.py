"""`train_base`: train a base network on some classes, so that later stages can reuse its layers.

    python -m pipeline train_base --classes 0-4

Five hidden layers of 100 neurons on MNIST's digits 0 to 4 reach about 99.4 % on the test images; the README has
the measured means and ranges.
"""  # fmt: skip

from __future__ import annotations

import json
import logging
import time

from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import Split, check_batch, split_for_base
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams, parse_params
from pipeline.runtime import generator
from pipeline.stages.training_run import (
    finish,
    fit_and_evaluate,
    fit_settings,
    print_dry_run,
    requested_architecture,
    resolve_machine,
    runtime_of,
)
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.queries import read_best_setting
from pipeline.tracking.result_cache import PlanContext, cached_step_result, parent_run_of
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store

logger = logging.getLogger(__name__)


def train_base(
    params: TrainBaseParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Train a base network and log everything about it as one MLflow run.

    Args:
        params: What to train, on what, how.
        plan_context: Of the plan run that this step belongs to; cached results are reused.
        resumed_run_id: The interrupted run to go on with.

    Returns:
        The run's id, the URI of the logged model, and its final metrics.

    Raises:
        UserInputError: The data cannot be had or has no such classes, or the store cannot be used; no run was made.
        NonFiniteLossError: Training diverged; the run is FAILED.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint kept.
    """
    if resumed_run_id is None:
        params = with_best_setting(params)
    began = time.perf_counter()
    split = load_split(params)
    data_seconds = time.perf_counter() - began
    logger.info(f"data: {split.note}")
    architecture = requested_architecture(params, split)
    network = build_network(architecture, generator(params.seed, "weights"))
    runtime = runtime_of(params, network, params.batch_size)
    params = resolve_machine(params, split, runtime)
    if params.dry_run:
        return print_dry_run(params, split, f"network: {architecture.model_dump_json()}")

    name = f"base {params.model} {params.classes} seed {params.seed}"
    note = (
        f"A base network ({params.model}) trained to tell apart classes {params.classes} of {split.dataset}: "
        f"{len(split.train)} images to train on, {len(split.validation)} for validation, {len(split.test)} for test."
    )
    key = cache_key(params, {"data": split.digest}, runtime.description)
    if (done := cached_step_result(plan_context, key, params.register_as)) is not None:
        return done
    parent = parent_run_of(plan_context)
    opened = stage_run(
        params, name=name, note=note, tags=key.tags(), parent_run_id=parent, resumed_run_id=resumed_run_id
    )
    with runtime.in_effect(), opened as run:
        run.log_split(split)
        trained = fit_and_evaluate(run, network.to(runtime.device), split, fit_settings(params, runtime))
        return finish(run, trained, split, params, data_seconds=data_seconds)


def with_best_setting(params: TrainBaseParams) -> TrainBaseParams:
    """Return the parameters with the best setting of the tune run that they name, where they name one."""
    if not params.params_from:
        return params
    from pipeline.tuning.search_space import SEARCHABLE  # brings optuna, which nothing else here needs

    found = read_best_setting(open_store(), params.params_from)
    if strange := sorted(set(found) - set(SEARCHABLE)):  # a file of the run may be anyone's
        raise UserInputError(
            Fault("params_from", params.params_from, f"sets what no study searches: {', '.join(strange)}.")
        )
    given = {name: getattr(params, name) for name in params.model_fields_set}
    chosen = parse_params(type(params), {**found, **given})
    logger.info(f"best setting of {params.params_from}: {json.dumps(found)}")
    return chosen


def load_split(params: TrainBaseParams) -> Split:
    """Return the images that the parameters ask for."""
    dataset = load_dataset(params.dataset, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=params.seed)
    check_batch(split, params.batch_size)
    return split
