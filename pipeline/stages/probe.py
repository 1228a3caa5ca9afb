"""`probe`: rank the cuts of a base in one pass over the labelled images, by heads solved on frozen features.

    python -m pipeline probe --base models:/m-ID --dataset folder:PATH

At each cut: cross-validated accuracy with a 95 % interval, LogME, and what `transfer` runs from this base have
measured. The test images are not used.
"""  # fmt: skip

from __future__ import annotations

import json
from dataclasses import replace

import torch

from pipeline.console import echo, print_table
from pipeline.data.splits import Split
from pipeline.data.stratified import max_folds, stratified_folds
from pipeline.errors import Fault, UserInputError
from pipeline.interruption import raise_if_interrupted
from pipeline.params import ProbeParams
from pipeline.report.probe_profile import CutScore, draw_profile, takeaway, write_profile
from pipeline.report.run_plots import save_figure
from pipeline.stages.class_table import shortened
from pipeline.stages.cut_pass import CutPass, pass_run, prepare_pass
from pipeline.stages.next_command import after_probe
from pipeline.tracking import names
from pipeline.tracking.cache_key import cache_key
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.queries import measured_transfers
from pipeline.tracking.result_cache import cached_step_result
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.cut_features import CutFeatures
from pipeline.training.linear_probe import MIN_FOLDS, cross_validated_accuracy
from pipeline.training.logme import logme

HEADINGS = ("cut", "block", "units", "accuracy %", "95 % CI", "LogME", "frozen %", "fine-tuned %")


def probe(params: ProbeParams, *, plan_context: PlanContext | None = None) -> StageResult:
    """Score the cuts of a base on a label sample, as one MLflow run without a model."""
    params, images = prepare_pass(params, seeds=range(params.seed, params.seed + 1), with_test=False)
    if params.dry_run or images is None:
        echo(json.dumps(params.logged(), indent=2))
        echo(f"dry run: would probe cuts {params.cuts}")
        return StageResult("", "", {})
    folds = choose_folds(params, images.splits[0])
    params = params.model_copy(update={"folds": len(folds)})
    base = images.base
    inputs = {"data": images.splits[0].digest, **base.key_inputs}
    key = cache_key(params, inputs, images.runtime.description)
    if (cached := cached_step_result(plan_context, key)) is not None:
        return cached
    note = "Accuracy of heads on frozen features, by cut."
    name = f"probe {shortened(params.classes)}, cuts {shortened(params.cuts)}, seed {params.seed}"
    with pass_run(params, base, key, name=name, note=note, runtime=images.runtime, plan_context=plan_context) as run:
        features = images.compute(run)
        scores = [score_cut(images, features, cut, folds=folds) for cut in images.cuts]
        scores = with_measured(run, params, scores)
        log_scores(run, features, scores)
        print_scores(params, images, scores)
        best = max(scores, key=lambda score: score.accuracy)
        echo(f"next: python -m pipeline {after_probe(base, params, best.cut)}")
        return StageResult(run.run_id, "", dict(run.final_metrics))


def choose_folds(params: ProbeParams, split: Split) -> list[torch.Tensor]:
    """Cut training and validation images together into folds.

    Raises:
        UserInputError: A class has fewer than three images.
    """
    labels, ids = labelled(split)
    limit = max_folds(labels, ids)
    if limit < MIN_FOLDS:
        allowed = f"the smallest class has {limit} images; cross-validation needs {MIN_FOLDS}."
        raise UserInputError(Fault("per_class", params.per_class, allowed, "Use more labels."))
    return stratified_folds(labels, ids, folds=min(params.folds, limit), seed=params.seed)


def labelled(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and identities of all labelled images that a training stage would use."""
    parts = (split.train, split.validation)
    return torch.cat([part.labels for part in parts]), torch.cat([part.ids for part in parts])


def score_cut(images: CutPass, features: CutFeatures, cut: int, *, folds: list[torch.Tensor]) -> CutScore:
    """Solve and score the heads of one cut."""
    raise_if_interrupted()
    labels, ids = labelled(images.splits[0])
    values = features.at(cut).rows(ids)
    result = cross_validated_accuracy(values, labels, folds)
    low, high = result.interval()
    return CutScore(
        cut=cut,
        block=images.base.network.architecture.block_names[cut - 1],
        units=values.shape[1],
        accuracy=result.accuracy,
        low=low,
        high=high,
        logme=logme(values, labels),
        converged=result.converged,
        at_grid_edge=sum(fold.at_grid_edge for fold in result.folds),
        seconds=result.seconds,
    )


def with_measured(run: StageRun, params: ProbeParams, scores: list[CutScore]) -> list[CutScore]:
    """Add the mean test accuracy of finished transfer runs from the same base, with the same classes and labels."""
    measured = measured_transfers(run.client, params.logged())
    return [
        replace(
            score,
            frozen_runs=len(measured.frozen.get(score.cut, ())),
            frozen_accuracy=mean(measured.frozen.get(score.cut, ())),
            fine_tuned_runs=len(measured.fine_tuned.get(score.cut, ())),
            fine_tuned_accuracy=mean(measured.fine_tuned.get(score.cut, ())),
        )
        for score in scores
    ]


def mean(values: tuple[float, ...] | list[float]) -> float | None:
    """Return the mean; None without values."""
    return sum(values) / len(values) if values else None


def log_scores(run: StageRun, features: CutFeatures, scores: list[CutScore]) -> None:
    """Log the table, the figure, the metrics of each cut (step = cut) and those of the best one."""
    run.log_file(write_profile(run.folder / names.PROFILE, scores))
    save_figure(draw_profile(scores, "Heads on frozen features, by cut"), run.folder / names.FIGURES / "profile.png")
    run.log_file(run.folder / names.FIGURES, names.FIGURES)
    for score in scores:
        quantities = {"accuracy": score.accuracy, "low": score.low, "high": score.high, "logme": score.logme}
        run.log_metrics({f"{names.PROBE}{name}": value for name, value in quantities.items()}, score.cut)
    best = max(scores, key=lambda score: score.accuracy)
    run.log_final(
        {
            names.PROBE_BEST_CUT: best.cut,
            names.PROBE_BEST_ACCURACY: best.accuracy,
            names.FEATURES_SECONDS: features.seconds,
            names.PROBE_SECONDS: sum(score.seconds for score in scores),
            names.TOTAL_SECONDS: run.elapsed_seconds(),
        }
    )


def print_scores(params: ProbeParams, images: CutPass, scores: list[CutScore]) -> None:
    """Print the table and its takeaway."""
    count = len(labelled(images.splits[0])[0])
    title = f"probe: {count} labelled images of {params.dataset} {params.classes}, {params.folds} folds"
    print_table(title, HEADINGS, [score.cells() for score in scores])
    echo(f"takeaway: {takeaway(scores)}")
