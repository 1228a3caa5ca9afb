"""`train_base`: train a base network on some classes, so that later stages can reuse its layers.

    python -m pipeline train_base --classes 0-4

Five hidden layers of 100 neurons on MNIST's digits 0 to 4 reach about 99.4 % on the test images; the README has
the measured means and ranges.
"""  # fmt: skip

from __future__ import annotations

import json
import time

from pipeline.console import say
from pipeline.data.sources import load_dataset
from pipeline.data.splits import Split, check_batch, split_for_base
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams, parse_params
from pipeline.runtime import generator, resolve_runtime
from pipeline.stages.common import architecture_of, finish, say_plan, settings_of, train_tracked, with_machine
from pipeline.tracking.identity import result_key
from pipeline.tracking.reading import read_best_setting
from pipeline.tracking.recognition import Within, parent_of, recalled
from pipeline.tracking.run import StageResult, stage_run
from pipeline.tracking.store import open_store


def train_base(
    params: TrainBaseParams, *, within: Within | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Train a base network and log everything about it as one MLflow run.

    Args:
        params: What to train, on what, how.
        within: The study that this is a step of; its finished results are taken instead of run again.
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
    runtime = resolve_runtime(params.device, params.dtype, params.threads, convolutional=params.model == "cnn")
    began = time.perf_counter()
    split = load_split(params)
    data_seconds = time.perf_counter() - began
    say(f"data: {split.note}")
    architecture = architecture_of(params, split)
    params = with_machine(params, split, runtime)
    if params.dry_run:
        return say_plan(params, split, f"network: {architecture.model_dump_json()}")

    name = f"base {params.model} {params.classes} seed {params.seed}"
    note = (
        f"A base network ({params.model}) trained to tell apart classes {params.classes} of {split.dataset}: "
        f"{len(split.train)} images to train on, {len(split.validation)} for validation, {len(split.test)} for test."
    )
    key = result_key(params, {"data": split.digest}, runtime.description)
    if (done := recalled(within, key, params.register_as)) is not None:
        return done
    parent = parent_of(within)
    with stage_run(
        params, name=name, note=note, tags=key.tags(), parent_run_id=parent, resumed_run_id=resumed_run_id
    ) as run:
        run.log_split(split)
        network = build_network(architecture, generator(params.seed, "weights")).to(runtime.device)
        trained = train_tracked(run, network, split, settings_of(params, runtime))
        return finish(run, trained, split, params, data_seconds=data_seconds)


def with_best_setting(params: TrainBaseParams) -> TrainBaseParams:
    """Return the parameters with the best setting of the tune run that they name, where they name one."""
    if not params.params_from:
        return params
    from pipeline.tuning.space import SEARCHABLE  # brings optuna, which nothing else here needs

    found = read_best_setting(open_store(), params.params_from)
    if strange := sorted(set(found) - set(SEARCHABLE)):  # a file of the run may be anyone's
        raise UserInputError(
            Fault("params_from", params.params_from, f"sets what no study searches: {', '.join(strange)}.")
        )
    given = {name: getattr(params, name) for name in params.model_fields_set}
    chosen = parse_params(type(params), {**found, **given})
    say(f"best setting of {params.params_from}: {json.dumps(found)}")
    return chosen


def load_split(params: TrainBaseParams) -> Split:
    """Return the images that the parameters ask for."""
    dataset = load_dataset(params.dataset, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=params.seed)
    check_batch(split, params.batch_size)
    return split
