"""`tune`: a cross-validated Optuna study of the base network, then one fit of the best setting.

    python -m pipeline tune --classes 0-4 --trials 20 --folds 5

The same command again tops the study up to `trials`, or does nothing; further machines join it by running the same
command with the same `study` and `PIPELINE_STORAGE`.
"""  # fmt: skip

from __future__ import annotations

import json
import time
from collections.abc import Callable

from pipeline.console import say
from pipeline.data.sources import load_dataset
from pipeline.data.splits import Split, check_batch, choose_classes, cut_folds, folds_digest, split_for_base
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import generator, process_identity, resolve_runtime
from pipeline.stages.common import architecture_of, finish, say_plan, settings_of, train_tracked, with_machine
from pipeline.tracking import names
from pipeline.tracking.identity import cache_key
from pipeline.tracking.reading import finished_result
from pipeline.tracking.run import StageResult, StageRun, stage_run
from pipeline.training.loop import Labelled
from pipeline.tuning.figures import draw_study
from pipeline.tuning.space import load_space, space_json
from pipeline.tuning.study import Study, StudySpec, finished_count, open_storage, open_study, pending_count, reap
from pipeline.tuning.workers import Job, Workers

LOOK_SECONDS = 1.0
SAY_SECONDS = 10.0


def tune(params: TuneParams, *, parent_run_id: str | None = None) -> StageResult:
    """Search hyper-parameters by cross-validation, then train the best setting once.

    Args:
        params: What to search, on what, with how many workers.
        parent_run_id: Makes the run a nested one of that run.

    Returns:
        The run's id, the URI of the refitted model (empty with refit=false), and the metrics.

    Raises:
        UserInputError: The space, the folds or the storage cannot be used, or the study is about something else.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED, unfinished trials are queued again.
    """
    runtime = resolve_runtime("cpu", params.dtype, params.threads, convolutional=params.model == "cnn")
    space = load_space(params.space, params.model)
    dataset = load_dataset(params.dataset, params.data_dir, data_dir_is_chosen=params.data_dir_is_chosen)
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=params.seed)
    examples = choose_classes(dataset.train, params.class_numbers, dataset)
    folds = cut_folds(examples.labels, params.folds, params.seed)
    architecture = architecture_of(params, split)
    check_batch(split, params.batch_size)
    params = with_machine(params, split, runtime)
    spec = StudySpec(
        params.study_name(split.dataset),
        params.sampler,
        params.pruner,
        {
            "folds": str(params.folds),
            "classes": split.classes_text,
            "dataset": split.dataset,
            "model": params.model,
            "seed": str(params.seed),
            "folds_digest": folds_digest(examples, folds),
            "space": space_json(space),
        },
    )
    say(f"data: {split.note}")
    if params.dry_run:
        return say_plan(params, split, f"study: {spec.name}, {len(space)} parameters: {', '.join(space)}")
    study = open_study(open_storage(), spec)
    before = finished_count(study)
    say(f"study {spec.name}: {before} of {params.trials} trials are finished")

    key = cache_key(params, {"data": split.digest}, runtime.description)
    if before >= params.trials and (done := finished_result(key)) is not None:
        say(f"nothing to do: run {done.run_id} has this study's result, model {done.model_uri or '(none)'}")
        return done
    searched = f"{params.trials} trials of {params.folds} folds on classes {split.classes_text} of {split.dataset}"
    note = f"Study {spec.name}: {searched}."
    tags = {names.CACHE_KEY: key, "study": spec.name}
    with stage_run(params, name=f"tune {spec.name}", note=note, tags=tags, parent_run_id=parent_run_id) as run:
        run.log_split(split)
        network = build_network(architecture, generator(0, "scale"))
        data = Labelled(network.scale(examples.pixels).share_memory_(), examples.labels.share_memory_())
        job = Job(
            spec=spec,
            space=space,
            trials=params.trials,
            params=params,
            architecture=architecture,
            settings=settings_of(params, runtime).for_fold(params.fold_epochs, params.fold_patience),
            data=data,
            folds=folds,
            study_seed=params.seed,
            parent_run_id=run.run_id,
            owner=process_identity()["process"],
        )
        began = time.perf_counter()
        search(study, job, params.worker_count(), lambda: say_progress(study, params.trials))
        seconds = time.perf_counter() - began
        log_study(run, study, seconds)
        say_best(study, seconds)
        if not params.refit:
            return StageResult(run.run_id, "", dict(run.final_metrics))
        return refit(run, params.with_setting(study.best_trial.params), split)


def search(study: Study, job: Job, count: int, progress: Callable[[], None]) -> None:
    """Keep workers at work until the study has its trials; replace those that die, clear up after them."""
    clear_up(study)
    if finished_count(study) >= job.trials:
        return
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
            lacking = pending_count(study) < job.trials
            if lacking and (workers.any_died() or not workers.any_alive()):
                workers.fill()
            if time.monotonic() - said > SAY_SECONDS:
                progress()
                said = time.monotonic()
    finally:
        workers.stop()
        clear_up(study)


def clear_up(study: Study) -> None:
    """Queue the trials of dead workers again, and close their runs."""
    for trial in reap(study):
        say(f"trial {trial.number}: its process is gone; its parameters are queued again")


def say_progress(study: Study, trials: int) -> None:
    """Say how far the study is, and what is best so far."""
    finished = finished_count(study)
    complete = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    best = f", best mean fold accuracy {100 * max(complete):.2f} %" if complete else ""
    say(f"{finished} of {trials} trials finished{best}")


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
    say(
        f"best of {finished_count(study)} trials: number {best.number}, mean fold accuracy "
        f"{100 * (best.value or 0):.2f} %, "
        f"precision {100 * precision:.2f} %, {seconds:.0f} s; {json.dumps(best.params)}"
    )


def refit(run: StageRun, params: TrainBaseParams, split: Split) -> StageResult:
    """Train the best setting once, as `train_base` does, within the study's run."""
    runtime = resolve_runtime(params.device, params.dtype, params.threads, convolutional=params.model == "cnn")
    say("training the best setting once on all folds' images, validated as train_base does")
    network = build_network(architecture_of(params, split), generator(params.seed, "weights")).to(runtime.device)
    trained = train_tracked(run, network, split, settings_of(params, runtime))
    return finish(run, trained, split, params, data_seconds=0.0)
