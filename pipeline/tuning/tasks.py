"""Run the tasks of a study: each is claimed, so that workers of any number of commands and machines share them.

The task of a worker that died is claimed by another one: only the fold that it was training is lost.
"""

import hashlib
import logging
import statistics
import time
from dataclasses import dataclass
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.errors import NonFiniteLossError
from pipeline.tracking.claims import Claim, ClaimedElsewhereError, ClaimLostError, Claims
from pipeline.tracking.recovery.orphans import close_run_of_dead_process
from pipeline.tuning.job import Job, score_trial
from pipeline.tuning.sampling import sample_generation
from pipeline.tuning.schedule import (
    DIVERGED,
    FAILURE,
    FOLD_PREFIX,
    GAVE_UP,
    GENERATION,
    SIZE,
    FoldTask,
    SampleTask,
    Task,
    fold_metrics,
    open_tasks,
)
from pipeline.tuning.trial_run import log_trial

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # while other workers run all open tasks
RETRIES = "retries"  # user attribute of a trial: how often a worker died while it trained one of its folds
MAX_RETRIES = 2  # the workers may have died because of the setting, such as out of memory
GIVE_UP_MESSAGE = (
    f"Its worker process died {MAX_RETRIES + 1} times: no more retries. "
    "If memory ran out: lower workers, or the upper bounds of the space."
)
DEAD_COMMAND = "Its process is gone; closed by another process."


def open_tasks_of(study: optuna.Study, job: Job) -> list[Task]:
    """Return what may be done now in a study; nothing if it is complete."""
    return open_tasks(study.get_trials(deepcopy=False), job.params.trials, len(job.folds), pruner=job.params.pruner)


@dataclass(frozen=True)
class Tasks:
    """The tasks of a study, as one worker takes them."""

    study: optuna.Study
    job: Job
    claims: Claims

    def run_next(self) -> bool:
        """Run a task that no other worker runs, or wait a moment; return False if the study is complete."""
        tasks = open_tasks_of(self.study, self.job)
        for task in tasks:
            try:
                claim = self.claims.acquire(self._key(task))
            except ClaimedElsewhereError:
                continue
            try:
                # another worker may have finished it before it was claimed
                if task in open_tasks_of(self.study, self.job):
                    self._run(task, claim)
            except ClaimLostError:
                logger.warning(f"{task}: its lease expired, and another worker runs it")
            finally:
                claim.release()
            return True
        if tasks:
            time.sleep(POLL_SECONDS)
        return bool(tasks)

    def _key(self, task: Task) -> str:
        return hashlib.sha256(f"{self.study.study_name} {task}".encode()).hexdigest()

    def _run(self, task: Task, claim: Claim) -> None:
        if claim.taken_over and claim.previous_run_id:
            close_run_of_dead_process(claim.previous_run_id, DEAD_COMMAND)
        claim.record_run(self.job.parent_run_id)
        if isinstance(task, SampleTask):
            self._sample(task)
            return
        trial = self.study.get_trials(deepcopy=False)[task.trial]
        if isinstance(task, FoldTask):
            self._score(trial, task.fold, claim)
        else:
            self._end(trial, task.state)

    def _sample(self, task: SampleTask) -> None:
        """Add the trials of a generation that do not exist yet."""
        trials = self.study.get_trials(deepcopy=False)
        earlier = [trial for trial in trials if trial.user_attrs[GENERATION] < task.generation]
        params, space = self.job.params, self.job.space
        settings = sample_generation(params.sampler, space, seed=params.seed, earlier=earlier, size=task.size)
        attributes = {GENERATION: task.generation, SIZE: task.size}
        new = partial(create_trial, state=TrialState.RUNNING, distributions={**space}, user_attrs=attributes)
        for setting in settings[len(trials) - len(earlier) :]:
            self.study.add_trial(new(params=setting))

    def _score(self, trial: FrozenTrial, fold: int, claim: Claim) -> None:
        """Train and score a fold, or record why the trial ends early."""
        if claim.taken_over and self._retries_are_used_up(trial):
            self._note(trial, GAVE_UP, GIVE_UP_MESSAGE)
            return
        try:
            metrics = score_trial(self.job, self.job.trial_params(trial), fold)
        except NonFiniteLossError as error:
            claim.check()
            self._note(trial, DIVERGED, str(error))
        except Exception as error:  # any error of a fold fails its trial; the owner counts them
            claim.check()
            self._note(trial, FAILURE, f"{type(error).__name__}: {error}")
        else:
            claim.check()
            self._note(trial, f"{FOLD_PREFIX}{fold}", metrics)
            self._report_means(trial.number)

    def _retries_are_used_up(self, trial: FrozenTrial) -> bool:
        retries = int(trial.user_attrs.get(RETRIES, 0)) + 1
        self._note(trial, RETRIES, retries)
        return retries > MAX_RETRIES

    def _report_means(self, number: int) -> None:
        """Report the running means over the folds as intermediate values, which the dashboard shows."""
        trial = self.study.get_trials(deepcopy=False)[number]
        metrics = fold_metrics(trial)
        accuracies: list[float] = []
        while len(accuracies) + 1 in metrics:
            accuracies.append(metrics[len(accuracies) + 1]["fold/accuracy"])
            mean = statistics.fmean(accuracies)
            self.study._storage.set_trial_intermediate_value(trial._trial_id, len(accuracies), mean)

    def _end(self, trial: FrozenTrial, state: TrialState) -> None:
        """Log the trial's run and end the trial."""
        self._report_means(trial.number)  # of folds whose worker was killed before it did so
        metrics = log_trial(self.study, self.job, trial, state=state)
        self.study.tell(trial.number, metrics["cv/accuracy"] if state is TrialState.COMPLETE else None, state=state)

    def _note(self, trial: FrozenTrial, name: str, value: object) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
