"""The one body of `transfer`, `finetune_cnn` and `scratch_cnn`.

Settle what is reused of which base, open the run, build the network, cache the frozen part where that is asked
for, fit, evaluate, hand over.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipeline.console import echo
from pipeline.data.splits import check_batch, choose_classes
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import architecture_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.reuse import LoadReport, reuse_network
from pipeline.params import TargetParams
from pipeline.params.stages import ReusingParams
from pipeline.params.target import TARGET_BUDGETS
from pipeline.runtime import Runtime, generator, resolve_runtime
from pipeline.stages.base_selection import TargetSetup, ToReuse, inherits_draw, labels_asked_for, prepare_target
from pipeline.stages.training_run import finish, fit_and_evaluate, fit_settings, print_dry_run, resolve_machine
from pipeline.tracking import names
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.feature_artifacts import (
    check_features_exist,
    check_size,
    find_features,
    load_features,
    log_features,
)
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.result_cache import PlanContext, cached_step_result, parent_run_of
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import Client, open_store
from pipeline.training.features import Features, check_sample, compute_features, fingerprint, prefix_seconds
from pipeline.training.loop import FitSettings

logger = logging.getLogger(__name__)

Obtain = Callable[[StageRun], Features | None]


def train_on_target(
    params: TargetParams,
    to_reuse: ToReuse,
    *,
    min_depth: int,
    plan_context: PlanContext | None = None,
    resumed_run_id: str | None = None,
) -> StageResult:
    """Train a network on target classes, some of its blocks copied from a base, as one MLflow run.

    Args:
        params: Of the stage.
        translate: What the stage takes of a base with a given number of blocks.
        least_depth: The blocks that a base must have; 0 where none of its weights are used.
        plan_context: Of the plan run that this step belongs to; cached results are reused.
        resumed_run_id: The interrupted run to go on with.
    """
    runtime = resolve_runtime(params.device, params.dtype, params.threads, convolutional=params.family == "cnn")
    client = open_store()
    choice = prepare_target(
        params, client, to_reuse, lambda found: check_setup(params, client, found), min_depth=min_depth
    )
    asked = params
    params = resolve_auto(params, choice, runtime)
    log_setup(choice)
    if choice.base is None and choice.reuse.copied:  # a dry run without a base
        return print_dry_run(params, choice.split, f"network: {choice.architecture.model_dump_json()}")
    inputs = {
        "data": choice.split.digest,
        "base": choice.base.digest if choice.base and choice.reuse.copied else "",
        "architecture": architecture_digest(choice.architecture),  # the base's, also where nothing of it is copied
    }
    key = cache_key(params, inputs, runtime.description)
    if not params.dry_run and (done := cached_step_result(plan_context, key, params.register_as)) is not None:
        return done
    network, report = reuse_network(
        choice.architecture,
        choice.base.network if choice.base else None,
        choice.reuse,
        generator=generator(params.seed, "weights"),
    )
    network.to(runtime.device)
    logger.info(str(report))
    obtain = feature_source(params, client, choice, network)
    if params.dry_run:
        return print_dry_run(params, choice.split, f"network: {choice.architecture.model_dump_json()}")

    tags = {**key.tags(), **lineage_tags(choice)}
    if inherits_draw(asked, choice.draw_from):
        tags[names.INHERITED_DRAW] = "true"
    name = f"{params.entry_point} {params.classes} {describe(choice)} seed {params.seed}"
    parent = parent_run_of(plan_context)
    with stage_run(
        params, name=name, note=note(choice), tags=tags, parent_run_id=parent, resumed_run_id=resumed_run_id
    ) as run:
        log_inputs(run, choice, report)
        settings = fit_settings(params, runtime, **copied_settings(params))
        features = obtain(run)
        costs = feature_costs(features, network, choice, settings)
        trained = fit_and_evaluate(run, network, choice.split, settings, copied=choice.reuse.copied, features=features)
        result = finish(
            run, trained, choice.split, params, data_seconds=choice.data_seconds, more=costs, seen_before=seen(choice)
        )
        say_difference(choice, result)
        return result


def check_setup(params: TargetParams, client: Client, choice: TargetSetup) -> None:
    """Refuse what does not fit, before a base is trained for it.

    Raises:
        UserInputError: The batch is larger than the data or too small for batch norm, a CNN's target overlaps its
            base's classes, or there is nothing to cache or no such features.
    """
    batch_size = budget_of(params, choice)["batch_size"] if params.batch_size == "auto" else int(params.batch_size)
    check_batch(choice.split, batch_size)
    if batch_size == 1 and choice.architecture.batch_norm and choice.reuse.frozen < choice.reuse.depth:
        raise UserInputError(
            Fault("batch_size", 1, "the base has batch norm, which needs at least 2 images.", "Raise it.")
        )
    if choice.overlap and params.family == "cnn":
        shared = ", ".join(map(str, choice.overlap))
        raise UserInputError(
            Fault(
                "classes",
                params.classes,
                f"the base has already been trained on {shared}.",
                "Name other classes, or another base.",
            )
        )
    features = params.features if isinstance(params, ReusingParams) else "none"
    if features != "none" and choice.reuse.frozen == 0:
        raise UserInputError(
            Fault("features", features, "no block is frozen, so there is nothing to cache.", "Use features=none.")
        )
    if features not in ("none", "auto"):
        check_features_exist(client, features)


def budget_of(params: TargetParams, choice: TargetSetup) -> dict[str, Any]:
    """Return the budget that goes with the labels that were asked for, with a batch that the data can fill."""
    budget = TARGET_BUDGETS["all" if labels_asked_for(params, choice.draw_from) == "all" else "few"]
    return {**budget, "batch_size": min(budget["batch_size"], len(choice.split.train))}


def resolve_auto(params: TargetParams, choice: TargetSetup, runtime: Runtime) -> TargetParams:
    """Return the parameters as they are logged: every auto replaced by what it came to."""
    found: dict[str, object] = {}
    if choice.base is not None:
        found["base"] = choice.base.model_uri
    found["per_class"] = labels_asked_for(params, choice.draw_from)
    validation = choice.split.validation.labels.bincount()
    if params.val_per_class == "auto" and len(validation.unique()) == 1:
        found["val_per_class"] = int(validation[0])
    budget = budget_of(params, choice)
    found |= {name: value for name, value in budget.items() if getattr(params, name) == "auto"}
    if hasattr(params, "reuse_layers"):
        found["reuse_layers"] = choice.reuse.copied
        found["upper"] = "fresh" if choice.reuse.depth > choice.reuse.copied else "drop"
    return resolve_machine(params, choice.split, runtime).model_copy(update=found)


def seen(choice: TargetSetup) -> Tensor | None:
    """Return the places of images that the base, or one before it, was trained on, if weights of it are used."""
    if choice.base is None or not choice.reuse.copied or choice.base.dataset != choice.split.dataset:
        return None
    return choice.base.seen_indices


def log_setup(choice: TargetSetup) -> None:
    """Say which data, which base and why, and what is taken of it."""
    logger.info(f"data: {choice.split.note}")
    if choice.base is not None:
        logger.info(f"{choice.base.ancestry}, {choice.base.why}")
    logger.info(f"reuse: {choice.reuse}")
    if choice.continued:
        logger.info("the base has the target's own classes: it is continued with its head and its draw of labels")
    if choice.overlap:
        logger.warning(f"the base has already seen the target classes {', '.join(map(str, choice.overlap))}")


def describe(choice: TargetSetup) -> str:
    """Return what is reused in a few words, for the run's name."""
    reuse = choice.reuse
    if not reuse.copied:
        return "from scratch"
    return f"{'continued ' if choice.continued else ''}{reuse.copied} copied {reuse.frozen} frozen"


def note(choice: TargetSetup) -> str:
    """Return what the run is, in words."""
    split = choice.split
    base = f" Its base is {choice.base.ancestry}." if choice.base else ""
    return (
        f"A network for classes {split.classes_text} of {split.dataset}: {choice.reuse}. {len(split.train)} images to "
        f"train on, {len(split.validation)} more for validation, {len(split.test)} for test.{base}"
    )


def lineage_tags(choice: TargetSetup) -> dict[str, object]:
    """Return the tags that tell a run's ancestry."""
    tags: dict[str, object] = {}
    if choice.base is not None:
        tags |= {
            names.BASE_MODEL_URI: choice.base.model_uri,
            names.BASE_RUN_ID: choice.base.run_id,
            names.ANCESTRY: choice.base.ancestry,
        }
    if choice.overlap:
        tags[names.CLASS_OVERLAP] = ",".join(map(str, choice.overlap))
    return tags


def log_inputs(run: StageRun, choice: TargetSetup, report: LoadReport) -> None:
    """Log the data, the base and what became of its tensors."""
    run.log_split(choice.split)
    if choice.base is not None:
        run.log_base(choice.base.model_uri)
    path = run.folder / names.LOAD_REPORT
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1), encoding="utf-8")
    run.log_file(path)


def copied_settings(params: TargetParams) -> dict[str, float | None]:
    """Return the settings of copied layers, where the stage has them."""
    if not isinstance(params, ReusingParams):
        return {}
    decay = None if params.unfrozen_weight_decay == "auto" else params.unfrozen_weight_decay
    return {"copied_learning_rate_factor": params.unfrozen_learning_rate_factor, "copied_weight_decay": decay}


def feature_source(params: TargetParams, client: Client, choice: TargetSetup, network: LayeredNetwork) -> Obtain:
    """Return what brings the features of the frozen blocks, once the run is open; faults are found before.

    Raises:
        UserInputError: Nothing is frozen, or the named features are not those of this base, cut and data.
    """
    if not isinstance(params, ReusingParams) or params.features == "none":
        return lambda run: None
    examples = choose_classes(choice.dataset.train, choice.split.classes, choice.dataset)
    wanted = fingerprint(network, network.frozen, examples)
    if params.features == "auto":
        found = find_features(client, wanted, logger.info)
    else:
        found = load_features(client, params.features, wanted)
    if found is not None:
        try:
            check_sample(found, network, examples)
        except ValueError as error:
            raise UserInputError(Fault("features", params.features, f"{error}.", "Run cache_features again.")) from None
        logger.info(f"features: {len(found.indices)} images, cut above block {found.depth}, found and checked")
        return lambda run: found

    check_size(network, network.frozen, examples)

    def compute(run: StageRun) -> Features:
        computed = compute_features(network, network.frozen, examples)
        check_sample(computed, network, examples)
        log_features(run, computed)
        logger.info(f"features: {len(examples)} images computed in {computed.seconds:.2f} s and logged")
        return computed

    return compute


def feature_costs(
    features: Features | None, network: LayeredNetwork, choice: TargetSetup, settings: FitSettings
) -> dict[str, float]:
    """Return what the features cost, what they save an epoch, and after how many epochs they have paid."""
    if features is None:
        return {}
    images = [choice.split.train.pixels, choice.split.validation.pixels]
    saved = prefix_seconds(network, features.depth, images, settings.batch_size)
    return {
        names.FEATURES_SECONDS: features.seconds,
        names.FEATURES_SAVED_SECONDS: saved,
        names.BREAK_EVEN_EPOCHS: features.seconds / saved,
    }


def say_difference(choice: TargetSetup, result: StageResult) -> None:
    """Say how the arm stands to the one it continues."""
    if choice.continued and choice.base is not None:
        gain = 100 * (result.metrics[names.TEST_ACCURACY] - choice.base.test_accuracy)
        echo(f"difference to the continued run {choice.base.run_id}: {gain:+.2f} points of test accuracy")
