"""`train_base`: train a base network, whose layers later stages reuse.

    python -m pipeline train_base --classes 0-4

Expected: about 99.4 % test accuracy on MNIST's digits 0-4; docs/results.md has means and ranges.
"""  # fmt: skip

from __future__ import annotations

import json
import logging
import time

from pipeline.data.normalization import preprocessing_digest
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import architecture_digest
from pipeline.params import TrainBaseParams, parse_params
from pipeline.params.grid import grid_values
from pipeline.stages.augment import resolve_augment
from pipeline.stages.base_network import base_network, log_own_code
from pipeline.stages.class_table import log_data, shortened
from pipeline.stages.data_loading import load_split, resolve_base
from pipeline.stages.fit_settings import resolve_machine, resolve_training_runtime
from pipeline.stages.training_result import describe_split, print_dry_run
from pipeline.stages.training_run import fit_base
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.queries import read_best_setting
from pipeline.tracking.result_cache import cached_step_result
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store

logger = logging.getLogger(__name__)


def train_base(
    params: TrainBaseParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Train a base network as one MLflow run; see `pipeline.stages` for arguments, result and errors."""
    if resumed_run_id is None:
        params = with_tuned_params(params)
    began = time.perf_counter()
    split = load_split(params)
    params = resolve_base(params, split)
    data_seconds = time.perf_counter() - began
    network, source = base_network(params, split)
    architecture = network.architecture
    runtime = resolve_training_runtime(params, network, params.batch_size)
    resolved = {"augment": resolve_augment(params, split), **dict.fromkeys(grid_values(params.tune_on_validation))}
    params = resolve_machine(params, split, runtime).model_copy(update=resolved)
    if params.dry_run:
        return print_dry_run(params, split, f"network: {architecture.model_dump_json()}")
    inputs = {"data": split.digest, "preprocessing": preprocessing_digest(architecture.preprocessing)}
    if source is not None:
        inputs["architecture"] = architecture_digest(architecture)  # with the user's code in it
    key = cache_key(params, inputs, runtime.description)
    if (cached := cached_step_result(plan_context, key, params.register_as)) is not None:
        return cached
    with stage_run(
        params,
        name=run_name(params),
        note=f"Base network ({params.model}) for {describe_split(split)}.",
        tags=key.tags(),
        plan_context=plan_context,
        resumed_run_id=resumed_run_id,
    ) as run:
        log_data(run, split)
        log_own_code(run, source)
        return fit_base(run, network, split, params=params, data_seconds=data_seconds)


def run_name(params: TrainBaseParams) -> str:
    """Return the name of the run, with what distinguishes bases of a plan first: a table shows some 14 characters."""
    batch_norm = "+bn" if params.model == "mlp" and params.batch_norm else ""
    return f"base {params.model}{batch_norm} s{params.seed}: {shortened(params.classes)}, seed {params.seed}"


def with_tuned_params(params: TrainBaseParams) -> TrainBaseParams:
    """Fill in the best parameters of the tune run `params_from`; explicit parameters take precedence.

    Raises:
        UserInputError: The run's artifact sets other parameters than a study searches.
    """
    if not params.params_from:
        return params
    from pipeline.tuning.search_space import SEARCHABLE  # imports optuna, which only this line needs

    best = read_best_setting(open_store(), params.params_from)
    if unknown := sorted(set(best) - set(SEARCHABLE)):  # untrusted input: anybody may have written the artifact
        allowed = f"sets parameters that no study searches: {', '.join(unknown)}."
        raise UserInputError(Fault("params_from", params.params_from, allowed))
    explicit = {name: getattr(params, name) for name in params.model_fields_set}
    logger.info(f"best parameters of tune run {params.params_from}: {json.dumps(best)}")
    return parse_params(type(params), {**best, **explicit})
