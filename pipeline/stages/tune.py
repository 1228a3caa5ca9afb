"""`tune`: a cross-validated Optuna study of the base network, then one fit with the best parameters.

    python -m pipeline tune --classes 0-4 --trials 20 --folds 5

The same command again adds the trials that are missing up to `trials`. Other machines join the study by running the
same command with the same `study` and `PIPELINE_STORAGE`. Read `tune_setup` and `tune_search` next.
"""

from __future__ import annotations

import logging

from pipeline.console import echo
from pipeline.data.normalization import preprocessing_digest
from pipeline.networks.from_params import with_convolutions
from pipeline.params import TuneParams
from pipeline.stages.base_network import base_network
from pipeline.stages.class_table import log_data
from pipeline.stages.fit_settings import requested_architecture
from pipeline.stages.training_result import print_dry_run
from pipeline.stages.training_run import fit_base
from pipeline.stages.tune_search import run_study
from pipeline.stages.tune_setup import prepare_study
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.result_cache import cached_step_result, find_cached_result, register_cached
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store
from pipeline.tuning.study import SEARCHER, finished_count, open_storage, open_study
from pipeline.tuning.workers import start_forkserver

logger = logging.getLogger(__name__)


def tune(params: TuneParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Search hyperparameters by cross-validation, then train once with the best; see `pipeline.stages`.

    The result has no model with refit=false. If interrupted, the scored folds are kept.
    """
    setup = prepare_study(params)
    params, split = setup.params, setup.split
    spec = setup.study_spec(new=bool(plan_context and plan_context.rerun))
    if params.dry_run:
        searched = f"{len(setup.space)} parameters: {', '.join(setup.space)}"
        return print_dry_run(params, split, f"study: {spec.name}, {searched}")
    architecture = requested_architecture(params, split)
    inputs = {"data": split.digest, "preprocessing": preprocessing_digest(architecture.preprocessing)}
    inputs["space"] = spec.facts["space"]
    key = cache_key(params, inputs, setup.runtime.description | SEARCHER)
    if (cached := cached_step_result(plan_context, key, params.register_as)) is not None:
        return cached
    study = open_study(open_storage(), spec)
    finished = finished_count(study)
    logger.info(f"study {spec.name}: {finished} of {params.trials} trials finished")
    if finished < params.trials:
        start_forkserver()
    elif plan_context is None and (cached := find_cached_result(open_store(), key)) is not None:
        register_cached(cached, params.register_as)
        echo(f"nothing to do: the study is complete (run {cached.run_id}, model {cached.model_uri or '(none)'})")
        return cached
    with stage_run(
        params,
        name=f"tune {spec.name}",
        note=f"Study {spec.name}: {params.trials} trials, {params.folds} folds, {split.dataset} {params.classes}.",
        tags={**key.tags(), "study": spec.name},
        plan_context=plan_context,
    ) as run:
        log_data(run, split)
        run_study(run, study, setup, spec=spec)
        if not params.refit:
            return StageResult(run.run_id, "", dict(run.final_metrics))
        logger.info("training with the best parameters on train_base's split")
        best = with_convolutions(params.with_trial(study.best_trial.params), split.image_shape)
        network, _ = base_network(best, split)
        return fit_base(run, network, split, params=best)
