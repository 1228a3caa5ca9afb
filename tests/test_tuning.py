"""Tuning: cross-validation without leakage, resume and fault tolerance, search space validation."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import optuna
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from pipeline.data.examples import select_examples
from pipeline.data.stratified import stratified_folds
from pipeline.errors import NonFiniteLossError, UserInputError
from pipeline.networks.layered import LayeredNetwork, MLPArchitecture
from pipeline.params import TrainBaseParams, TransferParams, TuneParams, parse_params
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.stages.tune import tune
from pipeline.tracking import names
from pipeline.training.records import FitSettings, Labelled
from pipeline.tuning import objective, tasks, workers
from pipeline.tuning.job import score_trial
from pipeline.tuning.objective import score_fold
from pipeline.tuning.sampling import sample_generation
from pipeline.tuning.schedule import fold_metrics
from pipeline.tuning.search_space import DEFAULT_SPACES, extremes, load_space, space_json
from pipeline.tuning.study import REASON, RUN_ID, finished_count, open_storage, scored_folds
from pipeline.tuning.tasks import RETRIES
from tests.conftest import clean_environment, preprocessing
from tests.test_tuning_machines import workers_of

QUICK = {
    "dataset": "digits", "classes": "0-2", "folds": 3, "fold_epochs": 2, "epochs": 3, "workers": 2, "width": 16,
    "hidden_layers": 2,
}  # fmt: skip
CPU = torch.device("cpu")
SPACE = "learning_rate: {low: 0.001, high: 0.01, log: true}\nbatch_size: [32, 64]\nwidth: {low: 8, high: 24, step: 8}\n"


@pytest.fixture
def space(tmp_path: Path) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return str(path)


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


def test_study_runs_end_to_end(
    store: MlflowClient, space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune(TuneParams(**QUICK, trials=4, space=space, study="first", pruner="none"))
    study = study_of(tmp_path, "first")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in study.trials)
    parent = store.get_run(result.run_id)
    assert parent.info.status == "FINISHED" and parent.data.tags[names.STAGE] == "tune"
    assert parent.data.metrics["study/complete"] == 4 and parent.data.metrics["cv/accuracy"] == study.best_value
    nested = store.search_runs(["0"], f"tags.`{names.PARENT_RUN_ID}` = '{result.run_id}'")
    assert len(nested) == 4 and {run.info.status for run in nested} == {"FINISHED"}
    assert {run.data.tags["trial_state"] for run in nested} == {"COMPLETE"}
    for run in nested:
        trial = next(t for t in study.trials if t.user_attrs[RUN_ID] == run.info.run_id)
        points = store.get_metric_history(run.info.run_id, "fold/accuracy")
        assert sorted(point.step for point in points) == [1, 2, 3]
        assert sum(point.value for point in points) / 3 == pytest.approx(trial.value)
        assert float(run.data.params["learning_rate"]) == trial.params["learning_rate"]
    figures = {item.path for item in store.list_artifacts(result.run_id, "figures")}
    assert {f"figures/{n}.png" for n in ("optimization_history", "parallel_coordinates", "learning_curves")} <= figures

    best = json.loads(Path(store.download_artifacts(result.run_id, names.BEST_SETTING)).read_text())
    tag = dict(pair.split("=") for pair in store.get_run(result.run_id).data.tags[names.WINNING_SETTING].split(", "))
    assert list(tag) == sorted(best) and float(tag["learning_rate"]) == pytest.approx(best["learning_rate"], rel=0.01)
    assert best == study.best_params
    refitted = train_base(TrainBaseParams(dataset="digits", epochs=1, params_from=result.run_id, batch_size=50))
    logged = store.get_run(refitted.run_id).data.params
    assert logged["width"] == str(best["width"]) and logged["batch_size"] == "50"
    chosen = transfer(
        TransferParams(dataset="digits", classes="5-7", per_class=10, val_per_class=5, epochs=1, reuse_layers=2)
    )
    assert store.get_run(chosen.run_id).data.tags[names.BASE_RUN_ID] in (result.run_id, refitted.run_id)

    again = tune(TuneParams(**QUICK, trials=4, space=space, study="first", pruner="none", register_as="tuned"))
    assert store.get_model_version_by_alias("tuned", "best").run_id == result.run_id
    assert again.run_id == result.run_id and "nothing to do" in capsys.readouterr().out
    tune(TuneParams(**QUICK, trials=6, space=space, study="first", pruner="none", refit=False))
    assert finished_count(study_of(tmp_path, "first")) == 6
    settings = [json.dumps(trial.params) for trial in study_of(tmp_path, "first").trials]
    assert len(set(settings)) == 6  # a resumed study does not repeat its first parameters


@pytest.mark.slow
def test_study_with_different_settings_is_rejected(store: MlflowClient, space: str) -> None:
    tune(TuneParams(**QUICK, trials=1, space=space, study="mine", refit=False))
    with pytest.raises(
        UserInputError, match=r"study=mine: already exists with other settings: folds is 3, not 4.*study=NAME"
    ):
        tune(TuneParams(**{**QUICK, "folds": 4}, trials=1, space=space, study="mine"))
    with pytest.raises(UserInputError, match="space is"):
        tune(TuneParams(**QUICK, trials=1, study="mine"))


def test_more_folds_than_images_are_rejected(store: MlflowClient, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (28, 28), 20 * index).save(tmp_path / "images" / name / f"{index}.png")
    with pytest.raises(UserInputError, match="folds=6: .*, 5., the size of the smallest class"):
        tune(TuneParams(dataset=f"folder:{tmp_path}/images", classes="0,1", folds=6, val_fraction=0.2))
    assert store.search_runs(["0"]) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"folds": "1"}, "folds=1: must be an integer in .2, 100."),
        ({"sampler": "tpee"}, "sampler=tpee: .*Did you mean tpe"),
        ({"pruner": "non"}, "pruner=non: .*Did you mean none"),
        ({"pruner": "median"}, "pruner=median: must be race or none. The median pruner was replaced by race"),
        ({"trials": "0"}, "trials=0"),
        ({"workers": "0"}, "workers=0"),
        ({"study": "a/b"}, "study=a/b"),
    ],
)
def test_invalid_parameters_are_rejected(raw: dict[str, str], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        parse_params(TuneParams, raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- 1\n", "is empty, or not a mapping"),
        ("width: [10, 20\n", "not valid YAML"),
        ("\nwidht: [1]\n", "line 2, widht: not a searchable parameter. Did you mean width"),
        ("width: {low: 5, high: 2}\n", "line 1, width: low=5 must be below high=2"),
        ("width: {low: 5}\n", "line 1, width: must be a list of choices, or low and high"),
        ("width: []\n", "line 1, width: needs at least one choice"),
        ("width: [1, 1]\n", "needs at least one choice, and no duplicates"),
        ("learning_rate: {low: 0, high: 1, log: true}\n", "`low > 0` must hold for `log=True`"),
        ("learning_rate: {low: 1e-5, high: 1}\n", "low, high and step must be numbers .write 1.0e-5"),
        ("dropout: {low: 0, high: 1.5}\n", "line 1, dropout: dropout=1.5: must be auto or a number in .0, 1."),
        ("width: {low: 1, high: 9, step: 0}\n", "step=0"),
        ("width: [8]\nwidth: [9]\n", "line 2: duplicate key: width"),
        ("conv_channels: ['4,4']\n", "conv_channels.*model=cnn"),
        ("width: !!python/object/apply:os.system [id]\n", "line 1: could not determine a constructor"),
    ],
)
def test_invalid_search_space_error_gives_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError, match=message):
        load_space(str(path), "mlp")


def test_ranges_are_sampled_with_the_parameter_type(tmp_path: Path) -> None:
    """Integers stay integers on a log scale; ranges with integer bounds are continuous for float parameters."""
    path = tmp_path / "space.yaml"
    path.write_text("width: {low: 8, high: 64, log: true}\nweight_decay: {low: 0, high: 1}\n")
    space = load_space(str(path), "mlp")
    settings = sample_generation("random", space, seed=0, earlier=[], size=20)
    assert all(isinstance(setting["width"], int) and 8 <= setting["width"] <= 64 for setting in settings)
    assert len({setting["weight_decay"] for setting in settings}) == 20
    for setting in settings:
        TrainBaseParams(**setting)


def test_all_search_space_errors_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("widht: [1]\ndropout: [2]\nepochs: [3]\n")
    with pytest.raises(UserInputError) as caught:
        load_space(str(path), "mlp")
    assert len(caught.value.faults) == 3


def test_default_search_spaces_are_valid() -> None:
    for family, space in DEFAULT_SPACES.items():
        for name, dimension in space.items():
            for value in extremes(dimension):
                TrainBaseParams(model=family, **{name: value})
    assert space_json(DEFAULT_SPACES["mlp"]) == space_json(load_space("default", "mlp"))


def test_early_stopping_never_sees_the_held_out_fold(digits, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    examples = select_examples(digits.train, (0, 1, 2), digits)
    data = Labelled(torch.arange(len(examples)).float().unsqueeze(1), examples.labels)  # each value is its own index
    folds = stratified_folds(examples.labels, examples.ids, folds=4, seed=0)
    seen: list[tuple[set[int], set[int]]] = []

    class Spy(objective.Fit):
        def __init__(self, network, train, validation, settings):  # type: ignore[no-untyped-def]
            seen.append(tuple({int(v) for v in part.values.flatten()} for part in (train, validation)))  # type: ignore[arg-type]
            super().__init__(network, train, validation, settings=settings)

    monkeypatch.setattr(objective, "Fit", Spy)
    architecture = MLPArchitecture(
        preprocessing=preprocessing(1, 1, 1), classes=("0", "1", "2"), hidden_layers=1, width=4
    )
    settings = FitSettings(1, 1, 32, 0.01, 0.0, seed=0)
    for number, fold in enumerate(folds, 1):
        score_fold(
            architecture, settings, data, ids=examples.ids, held_out=fold, number=number, val_fraction=0.2, device=CPU
        )
    assert len(seen) == 4
    everything = set(range(len(examples)))
    for (train, validation), fold in zip(seen, folds, strict=True):
        held_out = set(fold.tolist())
        assert not (train | validation) & held_out and not train & validation
        assert train | validation | held_out == everything


def test_trial_does_not_depend_on_global_random_state(digits) -> None:  # type: ignore[no-untyped-def]
    examples = select_examples(digits.train, (0, 1, 2), digits)
    data = Labelled(examples.pixels.float() / 255, examples.labels)
    folds = stratified_folds(examples.labels, examples.ids, folds=3, seed=0)
    architecture = MLPArchitecture(
        preprocessing=preprocessing(), classes=("0", "1", "2"), hidden_layers=1, width=8, dropout=0.2
    )
    settings = FitSettings(2, 2, 32, 0.01, 1e-4, seed=5, weight_averaging=0.9)

    def losses() -> list[float]:
        metrics = (
            score_fold(architecture, settings, data, ids=examples.ids, held_out=fold, number=number, val_fraction=0.2,
                       device=CPU)
            for number, fold in enumerate(folds, 1)
        )  # fmt: skip
        return [fold["fold/loss"] for fold in metrics]

    first = losses()
    torch.rand(5)
    assert losses() == first and all(math.isfinite(loss) for loss in first)


def test_unusable_storage_error_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE", "mysql+nodriver://someone:hunter2@127.0.0.1:1/x")
    began = time.monotonic()
    with pytest.raises(UserInputError, match="PIPELINE_STORAGE=.*cannot be used") as caught:
        open_storage()
    assert "hunter2" not in str(caught.value) and time.monotonic() - began < 10


class InProcess:
    """Runs the worker loop in this process, where its objective can be patched."""

    def __init__(self, job, count):  # type: ignore[no-untyped-def]
        self.job = job

    def fill(self) -> list[int]:
        with mock.patch.dict(os.environ):
            workers.work(self.job)
        return []

    def wait(self, limit: float) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.tune_search.Workers", InProcess)


def diverge(job, params, fold):  # type: ignore[no-untyped-def]
    raise NonFiniteLossError("the loss became nan in epoch 1")


@pytest.mark.usefixtures("in_process")
def test_diverging_trial_is_pruned_and_study_continues(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    monkeypatch.setattr(
        tasks,
        "score_trial",
        lambda job, params, fold: (diverge if next(calls) == 0 else score_trial)(job, params, fold),
    )
    tune(TuneParams(**QUICK, trials=2, study="s", refit=False))
    study = study_of(tmp_path, "s")
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE", "PRUNED"]
    (pruned,) = study.get_trials(states=(TrialState.PRUNED,))
    assert "the loss became nan" in pruned.user_attrs[REASON]
    (run,) = store.search_runs(["0"], "tags.trial_state = 'PRUNED'")
    assert "the loss became nan" in run.data.tags[names.NOTE]


@pytest.mark.usefixtures("in_process")
def test_study_without_converged_trials_raises(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "score_trial", diverge)
    with pytest.raises(RuntimeError, match="none of the 2 trials"):
        tune(TuneParams(**QUICK, trials=2, study="wild"))
    runs = store.search_runs(["0"])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.usefixtures("in_process")
def test_pruned_trials_have_runs_with_their_folds(store: MlflowClient, tmp_path: Path) -> None:
    tune(TuneParams(**QUICK, trials=5, study="s", refit=False))
    study = study_of(tmp_path, "s")
    assert sorted(len(fold_metrics(trial)) for trial in study.trials) == [1, 1, 2, 3, 3]
    for trial in study.trials:
        run = store.get_run(trial.user_attrs[RUN_ID])
        assert run.info.status == "FINISHED" and run.data.tags["trial_state"] == trial.state.name
        assert run.data.metrics["cv/folds"] == len(fold_metrics(trial)) == trial.last_step
        assert run.data.metrics["cv/accuracy"] == pytest.approx(trial.value)
        assert run.data.metrics["cv/accuracy"] == pytest.approx(trial.intermediate_values[trial.last_step])


def outcome(folder: Path, name: str) -> list[tuple[str, dict[str, object], float | None, list[float]]]:
    """Everything about a study that must not depend on its workers."""
    trials = study_of(folder, name).trials
    scores = [[fold["fold/loss"] for fold in fold_metrics(trial).values()] for trial in trials]
    return [(t.state.name, t.params, t.value, losses) for t, losses in zip(trials, scores, strict=True)]


@pytest.mark.slow
def test_study_does_not_depend_on_number_of_workers(store: MlflowClient, space: str, tmp_path: Path) -> None:
    for count in (1, 3):
        tune(TuneParams(**{**QUICK, "workers": count}, trials=14, space=space, study=f"s{count}", refit=False))
    assert len(outcome(tmp_path, "s1")) == 14 and outcome(tmp_path, "s1") == outcome(tmp_path, "s3")


@pytest.mark.usefixtures("no_figures", "in_process")
def test_trials_and_refit_use_the_resolved_device(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs no GPU: moves to the device are recorded instead of executed."""
    placed: list[str] = []
    monkeypatch.setattr("pipeline.runtime.missing_device", lambda name: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(LayeredNetwork, "to", lambda network, device: placed.append(str(device)) or network)
    monkeypatch.setattr(Labelled, "take", lambda data, places, device: take(data, places, placed.append(str(device))))
    result = tune(TuneParams(**QUICK, trials=2, device="cuda:1", study="s"))
    assert placed == ["cuda:1"] * (2 * 3 * (1 + 3) + 1)  # in each fold its network and three parts; the refit
    assert {run.data.params["device"] for run in store.search_runs(["0"])} == {"cuda:1"}
    assert json.loads(store.get_run(result.run_id).data.tags[names.KEY_PARTS])["machine"]["device"] == "cuda:1"


def take(data: Labelled, places: torch.Tensor, _: None) -> Labelled:
    return Labelled(data.values[places], data.labels[places])


def test_at_most_four_workers_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    params = TuneParams(**{**QUICK, "workers": "auto"})
    counts = [params.model_copy(update={"device": device}).worker_count() for device in ("cpu", "cuda:1", "mps")]
    assert counts == [16, 4, 4]


@pytest.mark.usefixtures("in_process")
def test_study_of_another_optuna_version_is_rejected(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tune(TuneParams(**QUICK, trials=1, study="s", refit=False))
    key = store.get_run(result.run_id).data.tags
    assert json.loads(key[names.KEY_PARTS])["machine"]["optuna"] == optuna.__version__
    monkeypatch.setattr("pipeline.stages.tune_setup.SEARCHER", {"optuna": "4.0.0"})
    with pytest.raises(UserInputError, match=f"optuna is {optuna.__version__}, not 4.0.0"):
        tune(TuneParams(**QUICK, trials=1, study="s", refit=False))


def test_study_with_trials_of_an_earlier_release_is_rejected(store: MlflowClient) -> None:
    old = optuna.create_study(study_name="old", storage=open_storage(), direction="maximize")
    old.tell(old.ask(), 0.5)
    with pytest.raises(UserInputError, match="study=old: has trials of an earlier release.*study=NAME"):
        tune(TuneParams(**QUICK, trials=2, study="old", refit=False))


def run_out_of_memory(job, params, fold):  # type: ignore[no-untyped-def]
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory_if_narrow(job, params, fold):  # type: ignore[no-untyped-def]
    return (run_out_of_memory if params.width < 16 else score_trial)(job, params, fold)


def work_until_killed(job):  # type: ignore[no-untyped-def]
    """The target of worker processes that the kernel kills in every fold."""
    tasks.score_trial = run_out_of_memory
    workers.work(job)


def work_until_narrow(job):  # type: ignore[no-untyped-def]
    """The target of worker processes that the kernel kills in folds of narrow networks."""
    tasks.score_trial = run_out_of_memory_if_narrow
    workers.work(job)


@pytest.mark.slow
def test_study_fails_if_every_worker_dies(
    store: MlflowClient, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "work", work_until_killed)
    monkeypatch.setattr("pipeline.stages.tune_search.MAX_FAILURES", 1)
    with pytest.raises(RuntimeError, match="3 worker processes died .* exit code -9"):
        tune(TuneParams(**{**QUICK, "workers": 1}, trials=3, study="s", space=space))
    assert not any(trial.state.is_finished() for trial in study_of(tmp_path, "s").trials)
    assert {run.info.status for run in store.search_runs(["0"])} == {"FAILED"}


@pytest.mark.slow
def test_trial_that_kills_its_worker_is_retried_twice(
    store: MlflowClient, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "work", work_until_narrow)
    one_narrow = {**QUICK, "workers": 1, "sampler": "random", "seed": 0}  # one of the first three is narrow
    tune(TuneParams(**one_narrow, trials=3, study="s", refit=False, space=space))
    study = study_of(tmp_path, "s")
    assert finished_count(study) == 3
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert failed.params["width"] == 8 and failed.user_attrs[RETRIES] == 3
    assert "If memory ran out" in failed.user_attrs[REASON]
    run = store.get_run(failed.user_attrs[RUN_ID])
    assert run.info.status == "FAILED" and "no more retries" in run.data.tags[names.NOTE]


def start_tuning(folder: Path, space: str, trials: int) -> subprocess.Popen[str]:
    words = [
        "tune",
        "--dataset",
        "digits",
        "--classes",
        "0-2",
        "--folds",
        "3",
        "--trials",
        str(trials),
        "--space",
        space,
    ]
    words += ["--study", "s", "--workers", "2", "--refit", "false", "--fold_epochs", "25", "--fold_patience", "25"]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=clean_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for_folds(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if scored_folds(study_of(folder, "s")) >= count:
                return
        except Exception:
            pass
        time.sleep(0.05)
    raise AssertionError("no fold was scored")


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "count"), [("everyone", 0), ("everyone", 6), ("one worker", 2)])
def test_killed_study_resumes_and_leaves_nothing_running(tmp_path: Path, whom: str, count: int) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    process = start_tuning(tmp_path, "space.yaml", 5)
    wait_for_folds(tmp_path, count)
    if whom == "everyone":
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(0.5)
        process = start_tuning(tmp_path, "space.yaml", 5)
    else:
        workers_of(process.pid)[-1].kill()
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    states = [trial.state for trial in study_of(tmp_path, "s").trials]
    assert len(states) == 5 and set(states) == {TrialState.COMPLETE, TrialState.PRUNED}, (states, out)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["0"])
    assert "RUNNING" not in {run.info.status for run in runs}, out
    done = [run for run in runs if run.data.tags.get(names.STAGE) == "trial" and run.info.status == "FINISHED"]
    assert len(done) == 5


@pytest.mark.slow
def test_cnn_search_space_determines_the_architecture(store: MlflowClient, tmp_path: Path) -> None:
    path = tmp_path / "cnn.yaml"
    path.write_text("conv_channels: ['4', '6,4']\nkernels: ['3']\nstrides: ['2']\npool: [none]\ndense_width: [8]\n")
    params = {"model": "cnn", "dataset": "digits", "classes": "0-2", "folds": 2, "fold_epochs": 1, "workers": 1}
    tune(TuneParams(**params, trials=3, study="cnn", sampler="random", refit=False, space=str(path)))
    runs = store.search_runs(["0"], "tags.stage = 'trial'")
    assert len(runs) == 3 and {run.data.params["conv_channels"] for run in runs} == {"4", "6,4"}
    for run in runs:
        blocks = len(run.data.params["conv_channels"].split(",")) + 1
        assert len(json.loads(run.data.tags["architecture"])["convolutions"]) + 1 == blocks


def test_contradictory_search_space_is_rejected(store: MlflowClient, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("conv_channels: ['4', '6,4,4']\nkernels: ['3,3']\n")
    with pytest.raises(UserInputError, match=r"space=.*invalid combination \(kernels=3,3: .*conv_channels="):
        tune(TuneParams(model="cnn", dataset="digits", classes="0-2", folds=2, space=str(path)))
    path.write_text("batch_size: [32, 1000000]\n")
    with pytest.raises(UserInputError, match="batch_size=1000000: must be at most"):
        tune(TuneParams(dataset="digits", classes="0-2", folds=2, space=str(path)))
    assert not store.search_runs(["0"])


@pytest.mark.slow
def test_study_stops_if_every_trial_raises(store: MlflowClient, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    from pipeline.stages import tune_search as stage

    monkeypatch.setattr(stage, "fit_settings", lambda *_: _Broken())
    with pytest.raises(RuntimeError, match="5 trials failed, the last with TypeError"):
        tune(TuneParams(**QUICK, trials=50, study="broken", space=space))


class _Broken:
    """Settings that make every fit fail."""

    def for_fold(self, epochs: int, patience: int) -> _Nonsense:
        return _Nonsense()


class _Nonsense:
    augment = "none"
