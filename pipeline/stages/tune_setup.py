"""Everything about a study that is resolved and validated before its run is created."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass

from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.data.splits import Split, check_batch_size, fold_examples, folds_digest
from pipeline.data.stratified import max_folds, stratified_folds
from pipeline.networks.build import build_network
from pipeline.networks.from_params import CONVOLUTION_FIELDS
from pipeline.params import TuneParams
from pipeline.runtime import Runtime, generator
from pipeline.stages.augment import resolve_augment
from pipeline.stages.data_loading import load_split, resolve_base
from pipeline.stages.fit_settings import requested_architecture, resolve_machine, resolve_training_runtime
from pipeline.tracking.cache_key import code_digest, key_params
from pipeline.tuning.search_space import Space, check_combinations, extremes, fit_batches, load_space, space_json
from pipeline.tuning.study import SEARCHER, StudySpec

logger = logging.getLogger(__name__)

NOT_IN_DIGEST = ("trials", "refit", "study", "epochs", "patience", "params_from")  # may change within a study


@dataclass(frozen=True)
class TuneSetup:
    """Everything about a study that is resolved before its run is created."""

    params: TuneParams
    runtime: Runtime
    space: Space
    split: Split  # of the final fit, as in train_base
    examples: Examples  # all training images of the classes
    folds: list[Tensor]  # int64, positions in `examples` of each fold's validation images

    def study_spec(self, *, new: bool) -> StudySpec:
        """Return the study's name and facts: everything that a trial's value depends on, code included.

        With `new`, the name is unique, even if a study with the same facts exists.
        """
        facts = {name: value for name, value in key_params(self.params).items() if name not in NOT_IN_DIGEST}
        facts |= {"folds_digest": folds_digest(self.examples, self.folds), "space": space_json(self.space)}
        facts |= {"code": code_digest("tune"), **SEARCHER}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
        name = self.params.study_name(self.split.dataset, f"{digest}-{time.time_ns()}" if new else digest)
        return StudySpec(name, facts)


def prepare_study(params: TuneParams) -> TuneSetup:
    """Load data and search space, and validate every combination of parameters that may be tried.

    Raises:
        UserInputError: The space, the folds or a batch size is invalid.
    """
    space = load_space(params.space, params.family)
    split = load_split(params)
    searches_convolutions = bool(set(CONVOLUTION_FIELDS) & set(space))
    params, unresolved = with_folds(resolve_base(params, split), split), params
    if searches_convolutions:
        params = params.model_copy(update={name: getattr(unresolved, name) for name in CONVOLUTION_FIELDS})
    examples = fold_examples(split)
    folds = stratified_folds(examples.labels, examples.ids, folds=params.folds, seed=params.seed)
    network = build_network(requested_architecture(params, split), generator(0, "scale"))
    runtime = resolve_training_runtime(params, network, params.batch_size)
    if params.space == "default":
        space = fit_batches(space, len(split.train))
    check_combinations(space, params, requested_architecture(params, split))
    batches = extremes(space["batch_size"]) if "batch_size" in space else (params.batch_size,)
    check_batch_size(split, max(map(int, batches)))
    params = resolve_machine(params, split, runtime).model_copy(update={"augment": resolve_augment(params, split)})
    return TuneSetup(params, runtime, space, split, examples, folds)


def with_folds(params: TuneParams, split: Split) -> TuneParams:
    """Return parameters whose default number of folds is at most the size of the smallest class."""
    examples = fold_examples(split)
    limit = max_folds(examples.labels, examples.ids)
    if params.folds != TuneParams.model_fields["folds"].default or not 2 <= limit < params.folds:
        return params
    logger.info(f"folds: lowered from {params.folds} to {limit}, the size of the smallest class")
    return params.model_copy(update={"folds": limit})
