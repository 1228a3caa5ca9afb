"""The MLflow run of a trial: nested in that of its study, and logged when the trial ends."""

import contextlib

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.recovery.orphans import close_run_of_dead_process, has_ended
from pipeline.tuning.job import Job
from pipeline.tuning.objective import Metrics, summarize
from pipeline.tuning.schedule import DIVERGED, FAILURE, GAVE_UP, fold_metrics
from pipeline.tuning.study import REASON, RUN_ID

HALF_LOGGED = "Its process died while it logged this run; the trial is logged again in another run."


class TrialFailedError(RuntimeError):
    """Ends the run of a failed trial as FAILED."""


def log_trial(study: optuna.Study, job: Job, trial: FrozenTrial, *, state: TrialState) -> Metrics:
    """Log a trial that ends with `state`, unless that was done before; return its metrics, empty without any fold."""
    folds = fold_metrics(trial)
    metrics = summarize(list(folds.values())) if folds else {}
    reason = end_reason(trial, state, len(job.folds))

    def note(name: str, value: object) -> None:
        study._storage.set_trial_user_attr(trial._trial_id, name, value)

    if earlier := str(trial.user_attrs.get(RUN_ID, "")):  # its worker died
        if has_ended(earlier):
            return metrics
        close_run_of_dead_process(earlier, HALF_LOGGED)
    params = job.trial_params(trial)
    tags: dict[str, object] = {
        names.STAGE: "trial",
        "architecture": job.architecture(params).model_dump_json(),
        "study": job.spec.name,
        "trial": trial.number,
        "trial_state": state.name,
    }
    text = f"Trial {trial.number} of study {job.spec.name}: {trial.params}"
    if state is TrialState.PRUNED:
        text += f"\n\n{reason}"
    run_name = f"trial {trial.number}"
    with (
        contextlib.suppress(TrialFailedError),
        stage_run(params, name=run_name, note=text, tags=tags, parent_run_id=job.parent_run_id) as run,
    ):
        note(RUN_ID, run.run_id)
        note(REASON, reason)
        for fold, values in folds.items():
            run.log_metrics(values, fold)
        if metrics:
            run.log_final(metrics)
        for name, value in metrics.items():
            note(name, value)
        if state is TrialState.FAIL:
            raise TrialFailedError(reason)
    return metrics


def end_reason(trial: FrozenTrial, state: TrialState, folds: int) -> str:
    """Return why a trial ends before its last fold; empty if it does not."""
    attributes = trial.user_attrs
    if DIVERGED in attributes:
        return f"pruned: {attributes[DIVERGED]}"
    if state is TrialState.PRUNED:
        return f"pruned after fold {len(fold_metrics(trial))} of {folds}"
    return str(attributes.get(GAVE_UP) or attributes.get(FAILURE) or "")
