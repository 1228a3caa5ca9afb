"""The search of a study: worker processes run its trials, are replaced if they die, and stop if they keep failing."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, field

from pipeline.console import echo
from pipeline.networks.build import build_network
from pipeline.runtime import generator, process_identity
from pipeline.stages.fit_settings import fit_settings, requested_architecture
from pipeline.stages.tune_setup import TuneSetup
from pipeline.tracking import names
from pipeline.tracking.recovery.orphans import try_to_close_orphaned_runs
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import store_environment
from pipeline.tuning.figures import draw_study
from pipeline.tuning.job import Job
from pipeline.tuning.shared import share_tensors
from pipeline.tuning.shared_examples import share_examples
from pipeline.tuning.study import Study, StudySpec, failures, finished_count, has_complete_trial, scored_folds
from pipeline.tuning.tasks import MAX_RETRIES, open_tasks_of
from pipeline.tuning.workers import Workers

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PROGRESS_SECONDS = 10.0
MAX_FAILURES = 5  # failed trials in a row before the study is stopped


def run_study(run: StageRun, study: Study, setup: TuneSetup, *, spec: StudySpec) -> None:
    """Run trials until the study has `trials` of them, and log its results.

    Raises:
        RuntimeError: Trials or workers keep failing, or no trial is complete.
    """
    params = setup.params
    job = build_job(setup, spec, run.run_id)
    began = time.perf_counter()
    with job.data.tensors.file, job.identities_and_folds.file:
        search(study, job, params.worker_count())
    if not has_complete_trial(study):
        raise RuntimeError(
            f"none of the {finished_count(study)} trials of study {study.study_name} completed all folds; "
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
    """Failed trials and dead workers since a fold was last scored."""

    study: Study
    max_deaths: int  # dead workers at which the study is stopped
    scored: int  # scored folds at the last update
    failed: int  # failed trials when a fold was last scored
    exit_codes: list[int] = field(default_factory=list)  # of workers that died since

    def update(self, exit_codes: list[int]) -> None:
        """Add newly dead workers and failed trials, and raise RuntimeError if there are too many."""
        errors = failures(self.study)
        if (scored := scored_folds(self.study)) != self.scored:
            self.scored, self.failed, self.exit_codes = scored, len(errors), []
        self.exit_codes += exit_codes
        if len(errors) - self.failed >= MAX_FAILURES:
            raise RuntimeError(f"{MAX_FAILURES} trials failed, the last with {errors[-1]}")
        if len(self.exit_codes) >= self.max_deaths:
            raise RuntimeError(
                f"{len(self.exit_codes)} worker processes died without scoring a fold, the last with exit code "
                f"{self.exit_codes[-1]}. -9 often means out of memory: lower workers, or the upper bounds of the space"
            )


def search(study: Study, job: Job, count: int) -> None:
    """Run `count` workers until the study is complete; replace workers that die.

    Raises:
        RuntimeError: Trials or workers fail repeatedly without a scored fold in between.
    """
    max_deaths = (MAX_RETRIES + 1) * max(MAX_FAILURES, count)
    failure_counts = FailureCounts(study, max_deaths, scored_folds(study), len(failures(study)))
    workers = Workers(job, count)
    logged = time.monotonic()
    try:
        while open_tasks_of(study, job):
            exit_codes = workers.fill()
            for code in exit_codes:
                logger.warning(f"a worker process died (exit code {code}); another one runs its fold again")
            if exit_codes:
                try_to_close_orphaned_runs()
            failure_counts.update(exit_codes)
            workers.wait(POLL_SECONDS)
            if time.monotonic() - logged > PROGRESS_SECONDS:
                log_progress(study, job.params.trials)
                logged = time.monotonic()
    finally:
        workers.stop()
        try_to_close_orphaned_runs()


def log_progress(study: Study, trials: int) -> None:
    """Log the number of scored folds and finished trials, and the best accuracy."""
    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    best = f", best mean fold accuracy {100 * max(values):.2f} %" if values else ""
    logger.info(f"{scored_folds(study)} folds scored, {finished_count(study)} of {trials} trials finished{best}")


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
