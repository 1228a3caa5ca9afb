"""Cached features for a target stage: find them, or compute and log them in the run."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from pipeline.data.examples import training_examples
from pipeline.errors import Fault, UserInputError
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.layered import LayeredNetwork
from pipeline.params.target import ReuseParams
from pipeline.params.target_stages import TargetStageParams
from pipeline.stages.target_setup import TargetSetup
from pipeline.tracking import names
from pipeline.tracking.cut_artifacts import ARTIFACT, find_cut_features, log_cut_features
from pipeline.tracking.feature_artifacts import check_size, find_features, load_features, log_features
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import Client
from pipeline.training.cut_features import compute_cut_features
from pipeline.training.features import Features, check_sample, compute_features, fingerprint, prefix_seconds
from pipeline.training.inputs import model_inputs

logger = logging.getLogger(__name__)

FeatureSource = Callable[[StageRun], Features | None]


def resolve_features(
    params: TargetStageParams, setup: TargetSetup, network: LayeredNetwork, *, client: Client
) -> FeatureSource:
    """Load and check the features of the frozen blocks, or return a function that computes them in the run.

    Raises:
        UserInputError: The features belong to another base, depth or dataset, or do not fit into memory.
    """
    if not isinstance(params, ReuseParams) or params.features == "none":
        return lambda run: None
    if params.features == "auto" and trains_head_only(setup):
        if (shared := shared_features(setup, network, client)) is not None:
            return lambda run: shared
        if isinstance(setup.architecture, GraphArchitecture):
            return lambda run: pooled_features(run, setup, network)
    examples = training_examples(setup.data.dataset, setup.data.split.classes)
    expected = fingerprint(network, network.frozen, examples)
    if params.features == "auto":
        features = find_features(client, expected)
    else:
        features = load_features(client, params.features, expected)
    if features is not None:
        try:
            check_sample(features, network, examples)
        except ValueError as error:
            raise UserInputError(Fault("features", params.features, f"{error}.", "Run cache_features again.")) from None
        logger.info(f"features: loaded for {len(features.ids)} images, after block {features.depth}")
        return lambda run: features

    check_size(network, network.frozen, examples)

    def compute(run: StageRun) -> Features:
        computed = compute_features(network, network.frozen, examples, folder=run.folder)
        check_sample(computed, network, examples)
        log_features(run, computed)
        logger.info(f"features: computed for {len(examples)} images in {computed.seconds:.2f} s, and logged")
        return computed

    return compute


def trains_head_only(setup: TargetSetup) -> bool:
    """Return whether pooled features suffice: for a linear head on frozen blocks of a base."""
    frozen = setup.base is not None and setup.reuse.frozen == setup.reuse.depth
    return frozen and getattr(setup.architecture, "head", "linear") == "linear"


def pooled_features(run: StageRun, setup: TargetSetup, network: LayeredNetwork) -> Features:
    """Compute pooled features of all cuts for the images of this run, log them for others, and return those at its cut.

    Activations of a library's network are too large to keep for all images of the target classes.
    """
    assert setup.base is not None, "only a base has frozen blocks"
    base, split = setup.base.network.to(network.device), setup.data.split
    cuts = range(1, len(base.blocks) + 1)
    features = compute_cut_features(base, cuts, [split.train, split.validation, split.test], path=run.folder / ARTIFACT)
    log_cut_features(run, features, base)
    logger.info(f"features: computed for {len(features.at(1).ids)} images at all cuts in {features.seconds:.2f} s")
    return features.at(setup.reuse.frozen)


def shared_features(setup: TargetSetup, network: LayeredNetwork, client: Client) -> Features | None:
    """Return pooled features of the base at the cut that cover training and validation images; None if there are none.

    They come from a `cache_features` run with `cuts`, a probe, or another run.
    """
    assert setup.base is not None, "only a base has frozen blocks"
    split = setup.data.split
    ids = torch.cat([split.train.ids, split.validation.ids])
    features = find_cut_features(client, setup.base.network, setup.reuse.frozen, ids=ids)
    if features is None:
        return None
    try:
        check_sample(features, network, split.train)
    except ValueError as error:
        logger.info(f"skipped features: {error}")
        return None
    logger.info(f"features: loaded for {len(features.ids)} images, pooled, after block {features.depth}")
    return features


def feature_costs(
    features: Features | None, network: LayeredNetwork, setup: TargetSetup, *, batch_size: int
) -> dict[str, float]:
    """Return the cost of the features, the time they save per epoch, and the break-even number of epochs."""
    if features is None:
        return {}
    if features.pooled:  # of several cuts, and shared by several runs
        return {names.FEATURES_SECONDS: features.seconds}
    parts = [model_inputs(network, part) for part in (setup.data.split.train, setup.data.split.validation)]
    saved = prefix_seconds(network, features.depth, parts, batch_size=batch_size)
    return {
        names.FEATURES_SECONDS: features.seconds,
        names.FEATURES_SAVED_SECONDS: saved,
        names.BREAK_EVEN_EPOCHS: features.seconds / saved,
    }
