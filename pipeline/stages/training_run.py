"""The steps that all training stages share: fit or solve, then evaluate once on each part of the split.

`training_result` logs and prints the result.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

from pipeline.data.splits import Split
from pipeline.interruption import raise_if_interrupted
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.macs import trainable_fraction, training_macs
from pipeline.params import TrainBaseParams
from pipeline.stages.fit_settings import resolve_training_runtime, settings_to_try
from pipeline.stages.fit_summary import FitSummary, summary_of_fit, summary_of_head
from pipeline.stages.fitting import FitInputs, fit_network
from pipeline.stages.training_result import TrainedNetwork, finish
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.evaluate import evaluate
from pipeline.training.features import Features
from pipeline.training.head_fit import fit_head
from pipeline.training.inputs import model_inputs
from pipeline.training.records import FitSettings, Labelled

logger = logging.getLogger(__name__)


def fit_base(
    run: StageRun, network: LayeredNetwork, split: Split, *, params: TrainBaseParams, data_seconds: float = 0.0
) -> StageResult:
    """Train a base network, and log the result."""
    runtime = resolve_training_runtime(params, network, params.batch_size)
    with runtime.in_effect():
        settings = settings_to_try(params, runtime)
        trained = fit_and_evaluate(run, network.to(runtime.device), split, settings=settings)
        return finish(run, trained, params, data_seconds=data_seconds)


def fit_and_evaluate(
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    *,
    settings: Sequence[FitSettings],
    copied: int = 0,
    features: Features | None = None,
) -> TrainedNetwork:
    """Fit a network, logging each epoch, and evaluate it once; a resumed run continues from its newest checkpoint.

    Args:
        run: The stage's run.
        network: On its device, with its frozen blocks frozen.
        split: Training, validation and test images.
        settings: Budget and optimizer; of several, the fit with the lowest validation loss is kept.
        copied: Number of blocks copied from the base.
        features: Cached outputs of the frozen blocks, to train on instead of pixels.
    """
    start = features.depth if features else 0
    train = model_inputs(network, split.train, features, augment=settings[0].augment)
    validation = model_inputs(network, split.validation, features)
    operations = float(training_macs(network, start) * len(split.train))
    finished = fit_network(run, network, FitInputs(train, validation, start, copied), settings=settings)
    parts, summary = (train, validation), summary_of_fit(finished)
    trained = evaluate_parts(finished.fit.network, split, summary, parts=parts, features=features)
    costs = {names.EPOCH_OPERATIONS: operations, **trained.costs}
    return dataclasses.replace(trained, costs=costs, checkpoints=finished.checkpoints)


def solve_and_evaluate(
    run: StageRun, network: LayeredNetwork, split: Split, *, features: Features | None = None
) -> TrainedNetwork:
    """Solve the head of a network whose blocks are all frozen, and evaluate it once; a resumed run solves it again.

    Args:
        run: The stage's run.
        network: On its device, with all blocks frozen and a linear head.
        split: Training, validation and test images.
        features: Cached outputs of the blocks, to solve on instead of pixels.
    """
    start = features.depth if features else 0
    parts = model_inputs(network, split.train, features), model_inputs(network, split.validation, features)
    if run.run_history is not None:
        run.log_restored([])
        logger.info(f"resuming run {run.run_id} from the start: solved heads have no checkpoints")
    fit = fit_head(network, *parts, start=start)
    raise_if_interrupted()
    return evaluate_parts(network, split, summary_of_head(fit), parts=parts, features=features)


def evaluate_parts(
    network: LayeredNetwork,
    split: Split,
    summary: FitSummary,
    *,
    parts: tuple[Labelled, Labelled],
    features: Features | None,
) -> TrainedNetwork:
    """Evaluate a trained network once on training and validation inputs, and on the test images.

    Args:
        network: With its best weights.
        split: Its test images are read unless they have cached features too.
        summary: Of its training.
        parts: Training and validation inputs, at the depth of the features.
        features: Cached ones; None for pixels.
    """
    began = time.perf_counter()
    start = features.depth if features else 0
    on_train, on_validation = (evaluate(network, part, start=start, probabilities=False) for part in parts)
    cached = features is not None and features.has_all(split.test.ids)
    test = model_inputs(network, split.test, features if cached else None)
    on_test = evaluate(network, test, start=start if cached else 0)
    costs = {
        names.TRAINABLE_SHARE: trainable_fraction(network),
        names.PARAMETERS_COUNT: float(sum(parameter.numel() for parameter in network.parameters())),
        names.EVALUATION_SECONDS: time.perf_counter() - began,
    }
    return TrainedNetwork(network, split, summary, on_train, on_validation, on_test, costs)
