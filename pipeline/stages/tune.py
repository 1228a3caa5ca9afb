"""`tune`: a cross-validated Optuna study of the base network, then one fit of the best setting.

    python -m pipeline tune --classes 0-4 --trials 20 --folds 5

The same command again tops the study up to `trials`, or does nothing; further machines join it by running the same
command with the same `study` and `PIPELINE_STORAGE`.
"""  # fmt: skip

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.console import echo
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import Examples, Split, check_batch, choose_classes, folds_digest, split_for_base
from pipeline.data.stratified import cut_folds
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import Runtime, generator, process_identity, resolve_runtime
from pipeline.stages.training_run import (
    finish,
    fit_and_evaluate,
    fit_settings,
    print_dry_run,
    requested_architecture,
    resolve_machine,
)
from pipeline.tracking import names
from pipeline.tracking.cache_key import cache_key, code_digest, key_params
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.result_cache import (
    PlanContext,
    cached_step_result,
    find_cached_result,
    parent_run_of,
    register_cached,
)
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.tracking.store import open_store, store_environment
from pipeline.tuning.figures import draw_study
from pipeline.tuning.search_space import Space, check_combinations, extremes, fit_batches, load_space, space_json
from pipeline.tuning.shared import share_tensors
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

LOOK_SECONDS = 1.0
SAY_SECONDS = 10.0
NOT_OF_TRIALS = ("trials", "refit", "study", "epochs", "patience", "params_from")  # may change within a study
MAX_FAILURES = 5  # trials that raise an error, none finishing between; a study where all do would never end


def tune(params: TuneParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Search hyper-parameters by cross-validation, then train the best setting once.

    Args:
        params: What to search, on what, with how many workers.
        plan_context: Of the plan run that this step belongs to; cached results are reused.

    Returns:
        The run's id, the URI of the refitted model (empty with refit=false), and the metrics.

    Raises:
        UserInputError: The space, the folds or the storage cannot be used, or the study is about something else.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED, unfinished trials are queued again.
    """
    runtime = resolve_runtime(params.device, params.dtype, params.threads, convolutional=params.model == "cnn")
    space = load_space(params.space, params.model)
    dataset = load_dataset(params.dataset, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=params.seed)
    examples = choose_classes(dataset.train, params.class_numbers, dataset)
    folds = cut_folds(examples.labels, params.folds, params.seed)
    requested_architecture(params, split)  # refuses what makes no network
    if params.space == "default":
        space = fit_batches(space, len(split.train))
    check_combinations(space, params, split.image_shape)
    check_batch(split, largest_batch(space, params))
    params = resolve_machine(params, split, runtime)
    spec = describe_study(
        params, split, space, folds_digest(examples, folds), fresh=bool(plan_context and plan_context.rerun)
    )
    logger.info(f"data: {split.note}")
    if params.dry_run:
        return print_dry_run(params, split, f"study: {spec.name}, {len(space)} parameters: {', '.join(space)}")
    key = cache_key(params, {"data": split.digest, "space": spec.facts["space"]}, runtime.description | SEARCHER)
    if (done := cached_step_result(plan_context, key, params.register_as)) is not None:
        return done
    study = open_study(open_storage(), spec)
    before = finished_count(study)
    logger.info(f"study {spec.name}: {before} of {params.trials} trials are finished")
    if before < params.trials:
        start_forkserver()
    elif plan_context is None and (done := find_cached_result(open_store(), key)) is not None:
        register_cached(done, params.register_as)
        echo(f"nothing to do: run {done.run_id} has this study's result, model {done.model_uri or '(none)'}")
        return done
    searched = f"{params.trials} trials of {params.folds} folds on classes {split.classes_text} of {split.dataset}"
    note = f"Study {spec.name}: {searched}."
    tags = {**key.tags(), "study": spec.name}
    with stage_run(
        params, name=f"tune {spec.name}", note=note, tags=tags, parent_run_id=parent_run_of(plan_context)
    ) as run:
        run.log_split(split)
        job = job_of(params, spec, space, split, examples, folds, runtime, run.run_id)
        began = time.perf_counter()
        with job.shared.file:
            search(study, job, params.worker_count(), lambda: say_progress(study, params.trials))
        seconds = time.perf_counter() - began
        check_found(study)
        log_study(run, study, seconds)
        say_best(study, seconds)
        if not params.refit:
            return StageResult(run.run_id, "", dict(run.final_metrics))
        return refit(run, params.with_setting(study.best_trial.params), split, runtime)


def job_of(
    params: TuneParams,
    spec: StudySpec,
    space: Space,
    split: Split,
    examples: Examples,
    folds: list[Tensor],
    runtime: Runtime,
    run_id: str,
) -> Job:
    """Return what every worker needs to know, with the images that they share."""
    network = build_network(requested_architecture(params, split), generator(0, "scale"))
    return Job(
        spec=spec,
        space=space,
        trials=params.trials,
        params=params,
        image_shape=split.image_shape,
        classes=split.classes,
        settings=fit_settings(params, runtime).for_fold(params.fold_epochs, params.fold_patience),
        shared=share_tensors([network.scale(examples.pixels), examples.labels, *folds]),
        study_seed=params.seed,
        parent_run_id=run_id,
        folder=os.getcwd(),
        environment=store_environment() | {k: v for k, v in os.environ.items() if k.startswith("PIPELINE_")},
        owner=process_identity()["process"],
    )


def check_found(study: Study) -> None:
    """Raise RuntimeError where no trial of a study reached a value."""
    if not any(trial.value is not None for trial in study.get_trials(deepcopy=False)):
        raise RuntimeError(
            f"none of the {finished_count(study)} trials of study {study.study_name} reached a value: "
            "their runs say why; name a new study with other bounds"
        )


def describe_study(params: TuneParams, split: Split, space: Space, folds_digest: str, *, fresh: bool) -> StudySpec:
    """Return what a study is about: whatever a trial's value depends on, its code among it.

    Args:
        params: With data set and machine resolved.
        split: Names the data set.
        space: What is searched.
        folds_digest: Of the cut.
        fresh: Whether a new study is wanted though an equal one may be there.
    """
    facts = {name: value for name, value in key_params(params).items() if name not in NOT_OF_TRIALS}
    facts |= {"folds_digest": folds_digest, "space": space_json(space), "code": code_digest("tune"), **SEARCHER}
    own = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
    name = params.study_name(split.dataset, f"{own}-{time.time_ns()}" if fresh else own)
    return StudySpec(name, params.sampler, params.pruner, facts)


def largest_batch(space: Space, params: TuneParams) -> int:
    """Return the largest batch that a trial may have."""
    return max(map(int, extremes(space["batch_size"]))) if "batch_size" in space else params.batch_size


@dataclass
class Setbacks:
    """What has gone wrong in a study since a trial last finished.

    Attributes:
        study: The study.
        deaths_allowed: How many workers may die.
        finished: How many trials are finished.
        failed: How many had raised an error by then.
        exit_codes: Of the workers that have died since.
    """

    study: Study
    deaths_allowed: int
    finished: int
    failed: int
    exit_codes: list[int] = field(default_factory=list)

    def add(self, exit_codes: list[int]) -> None:
        """Take note of workers that died, and of trials that failed.

        Raises:
            RuntimeError: They are too many to go on.
        """
        errors = failures(self.study)
        if (finished := finished_count(self.study)) != self.finished:
            self.finished, self.failed, self.exit_codes = finished, len(errors), []
        self.exit_codes += exit_codes
        if len(errors) - self.failed >= MAX_FAILURES:
            raise RuntimeError(f"{MAX_FAILURES} trials failed, the last with {errors[-1]}")
        if len(self.exit_codes) >= self.deaths_allowed:
            raise RuntimeError(
                f"{len(self.exit_codes)} worker processes died and no trial finished meanwhile, the last with exit "
                f"code {self.exit_codes[-1]}. -9 often means that memory has run out: lower workers, or the upper "
                "bounds of the space"
            )


def search(study: Study, job: Job, count: int, progress: Callable[[], None]) -> None:
    """Keep workers at work until the study has its trials; replace those that die, clear up after them.

    Raises:
        RuntimeError: Trials raise errors or workers die, and none finishes.
    """
    clear_up(study)
    if finished_count(study) >= job.trials:
        return
    allowed = (MAX_RETRIES + 1) * max(MAX_FAILURES, count)
    setbacks = Setbacks(study, allowed, finished_count(study), len(failures(study)))
    workers = Workers(job, count)
    workers.fill()
    said = time.monotonic()
    try:
        while workers.any_alive() or finished_count(study) < job.trials:
            if workers.any_alive():
                workers.wait(LOOK_SECONDS)
            else:
                time.sleep(LOOK_SECONDS)  # the last trials are under way on other machines
            clear_up(study)
            lacking = started_count(study) < job.trials
            refill = lacking and (workers.any_died() or not workers.any_alive())
            setbacks.add(workers.fill() if refill else [])
            if time.monotonic() - said > SAY_SECONDS:
                progress()
                said = time.monotonic()
    finally:
        workers.stop()
        clear_up(study)


def clear_up(study: Study) -> None:
    """Fail the trials of dead workers, retry them where they may be, and close their runs."""
    for trial in fail_stale_trials(study):
        logger.info(f"trial {trial.number}: {retry_message(trial)}")


def say_progress(study: Study, trials: int) -> None:
    """Say how far the study is, and what is best so far."""
    finished = finished_count(study)
    complete = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    best = f", best mean fold accuracy {100 * max(complete):.2f} %" if complete else ""
    logger.info(f"{finished} of {trials} trials finished{best}")


def log_study(run: StageRun, study: Study, seconds: float) -> None:
    """Log figures, the best setting, and what the study came to."""
    folder = run.folder / names.FIGURES
    draw_study(study, folder)
    run.log_file(folder, names.FIGURES)
    best = study.best_trial
    path = run.folder / names.BEST_SETTING
    path.write_text(json.dumps(best.params, indent=1, sort_keys=True), encoding="utf-8")
    run.log_file(path)
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


def say_best(study: Study, seconds: float) -> None:
    """Say which setting is best."""
    best = study.best_trial
    precision = best.user_attrs.get("cv/precision", float("nan"))
    echo(
        f"best of {finished_count(study)} trials: number {best.number}, mean fold accuracy "
        f"{100 * (best.value or 0):.2f} %, "
        f"precision {100 * precision:.2f} %, {seconds:.0f} s; {json.dumps(best.params)}"
    )


def refit(run: StageRun, params: TrainBaseParams, split: Split, runtime: Runtime) -> StageResult:
    """Train the best setting once, as `train_base` does, within the study's run."""
    logger.info("training the best setting once on all folds' images, validated as train_base does")
    network = build_network(requested_architecture(params, split), generator(params.seed, "weights")).to(runtime.device)
    trained = fit_and_evaluate(run, network, split, fit_settings(params, runtime))
    return finish(run, trained, split, params, data_seconds=0.0)
