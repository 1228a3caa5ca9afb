"""`tune`: a cross-validated Optuna study of the base network, then one fit with the best parameters.

    python -m pipeline tune --classes 0-4 --trials 20 --folds 5

The same command again adds the trials that are missing up to `trials`. Other machines join the study by running the
same command with the same `study` and `PIPELINE_STORAGE`.
"""  # fmt: skip

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.console import echo
from pipeline.data.normalization import preprocessing_digest
from pipeline.data.splits import Examples, Split, check_batch_size, fold_examples, folds_digest
from pipeline.data.stratified import max_folds, stratified_folds
from pipeline.networks.build import build_network
from pipeline.networks.from_params import CONVOLUTION_FIELDS, with_convolutions
from pipeline.params import TuneParams
from pipeline.runtime import Runtime, generator, process_identity
from pipeline.stages.augment import resolve_augment
from pipeline.stages.base_network import base_network
from pipeline.stages.class_table import log_data
from pipeline.stages.data_loading import load_split, resolve_base
from pipeline.stages.training_run import (
    fit_base,
    fit_settings,
    print_dry_run,
    requested_architecture,
    resolve_machine,
    resolve_training_runtime,
)
from pipeline.tracking import names
from pipeline.tracking.cache_key import cache_key, code_digest, key_params
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.result_cache import cached_step_result, find_cached_result, register_cached
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import open_store, store_environment
from pipeline.tuning.figures import draw_study
from pipeline.tuning.search_space import Space, check_combinations, extremes, fit_batches, load_space, space_json
from pipeline.tuning.shared import share_tensors
from pipeline.tuning.shared_examples import share_examples
from pipeline.tuning.study import (
    MAX_RETRIES,
    SEARCHER,
    Study,
    StudySpec,
    fail_stale_trials,
    failures,
    finished_count,
    open_storage,
    open_study,
    retry_message,
    started_count,
)
from pipeline.tuning.workers import Job, Workers, start_forkserver

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PROGRESS_SECONDS = 10.0
NOT_IN_DIGEST = ("trials", "refit", "study", "epochs", "patience", "params_from")  # may change within a study
MAX_FAILURES = 5  # failed trials in a row before the study is stopped


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
        return StudySpec(name, self.params.sampler, self.params.pruner, facts)


def tune(params: TuneParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Search hyperparameters by cross-validation, then train once with the best; see `pipeline.stages`.

    The result has no model with refit=false. If interrupted, unfinished trials are queued again.
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
        return fit_base(run, network, split, best)


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


def run_study(run: StageRun, study: Study, setup: TuneSetup, *, spec: StudySpec) -> None:
    """Run trials until the study has `trials` of them, and log its results.

    Raises:
        RuntimeError: Trials or workers keep failing, or no trial has a value.
    """
    params = setup.params
    job = build_job(setup, spec, run.run_id)
    began = time.perf_counter()
    with job.data.tensors.file, job.identities_and_folds.file:
        search(study, job, params.worker_count())
    if not any(trial.value is not None for trial in study.get_trials(deepcopy=False)):
        raise RuntimeError(
            f"none of the {finished_count(study)} trials of study {study.study_name} completed a fold; "
            "see the notes of their runs, and start a new study with a different search space"
        )
    log_study(run, study, time.perf_counter() - began)


def build_job(setup: TuneSetup, spec: StudySpec, run_id: str) -> Job:
    """Return what every worker needs, with the images in shared memory or in the file that they are stored in."""
    params, split = setup.params, setup.split
    settings = fit_settings(params, setup.runtime).for_fold(params.fold_epochs, params.fold_patience)
    network = build_network(requested_architecture(params, split), generator(0, "scale"))
    return Job(
        spec=spec,
        space=setup.space,
        params=params,
        preprocessing=network.architecture.preprocessing,
        classes=split.class_names,
        settings=settings,
        data=share_examples(network, setup.examples, settings.augment),
        identities_and_folds=share_tensors([setup.examples.ids, *setup.folds]),
        parent_run_id=run_id,
        folder=os.getcwd(),
        environment=store_environment() | {k: v for k, v in os.environ.items() if k.startswith("PIPELINE_")},
        owner=process_identity()["process"],
    )


@dataclass
class FailureCounts:
    """Failed trials and dead workers since a trial last finished."""

    study: Study
    max_deaths: int  # dead workers at which the study is stopped
    finished: int  # finished trials at the last update
    failed: int  # failed trials when a trial last finished
    exit_codes: list[int] = field(default_factory=list)  # of workers that died since

    def update(self, exit_codes: list[int]) -> None:
        """Add newly dead workers and failed trials, and raise RuntimeError if there are too many."""
        errors = failures(self.study)
        if (finished := finished_count(self.study)) != self.finished:
            self.finished, self.failed, self.exit_codes = finished, len(errors), []
        self.exit_codes += exit_codes
        if len(errors) - self.failed >= MAX_FAILURES:
            raise RuntimeError(f"{MAX_FAILURES} trials failed, the last with {errors[-1]}")
        if len(self.exit_codes) >= self.max_deaths:
            raise RuntimeError(
                f"{len(self.exit_codes)} worker processes died without finishing a trial, the last with exit code "
                f"{self.exit_codes[-1]}. -9 often means out of memory: lower workers, or the upper bounds of the space"
            )


def search(study: Study, job: Job, count: int) -> None:
    """Run `count` workers until the study has its trials; replace workers that die.

    Raises:
        RuntimeError: Trials or workers fail repeatedly without a finished trial in between.
    """
    clean_up(study)
    if finished_count(study) >= job.params.trials:
        return
    max_deaths = (MAX_RETRIES + 1) * max(MAX_FAILURES, count)
    failure_counts = FailureCounts(study, max_deaths, finished_count(study), len(failures(study)))
    workers = Workers(job, count)
    workers.fill()
    logged = time.monotonic()
    try:
        while workers.any_alive() or finished_count(study) < job.params.trials:
            if workers.any_alive():
                workers.wait(POLL_SECONDS)
            else:
                time.sleep(POLL_SECONDS)  # other machines run the last trials
            clean_up(study)
            needs_workers = started_count(study) < job.params.trials and (workers.any_died() or not workers.any_alive())
            failure_counts.update(workers.fill() if needs_workers else [])
            if time.monotonic() - logged > PROGRESS_SECONDS:
                log_progress(study, job.params.trials)
                logged = time.monotonic()
    finally:
        workers.stop()
        clean_up(study)


def clean_up(study: Study) -> None:
    """Fail the trials of dead workers, queue them again if retries are left, and close their runs."""
    for trial in fail_stale_trials(study):
        logger.info(f"trial {trial.number}: {retry_message(trial)}")


def log_progress(study: Study, trials: int) -> None:
    """Log the number of finished trials and the best accuracy."""
    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    best = f", best mean fold accuracy {100 * max(values):.2f} %" if values else ""
    logger.info(f"{finished_count(study)} of {trials} trials finished{best}")


def log_study(run: StageRun, study: Study, seconds: float) -> None:
    """Log figures, best parameters and final metrics, and print the best trial."""
    folder = run.folder / names.FIGURES
    draw_study(study, folder)
    run.log_file(folder, names.FIGURES)
    best = study.best_trial
    path = run.folder / names.BEST_SETTING
    path.write_text(json.dumps(best.params, indent=1, sort_keys=True), encoding="utf-8")
    run.log_file(path)
    winning = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in best.params.items()}
    run.set_tags({names.WINNING_SETTING: ", ".join(f"{name}={value}" for name, value in sorted(winning.items()))})
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    run.log_final(
        {
            "cv/accuracy": best.value or 0.0,
            "cv/accuracy_std": best.user_attrs.get("cv/accuracy_std", 0.0),
            "cv/precision": best.user_attrs.get("cv/precision", 0.0),
            "study/complete": states.count("COMPLETE"),
            "study/pruned": states.count("PRUNED"),
            "study/failed": states.count("FAIL"),
            "time/study_seconds": seconds,
        }
    )
    precision = best.user_attrs.get("cv/precision", float("nan"))
    echo(
        f"best of {finished_count(study)} trials: trial {best.number}, mean accuracy {100 * (best.value or 0):.2f} %, "
        f"precision {100 * precision:.2f} %, {seconds:.0f} s; {json.dumps(best.params)}"
    )
