"""Linear probe and LogME: no image scores a head that saw it, intervals, and the definition of the evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import t as student_t
from torch import Tensor

from pipeline.data.stratified import stratified_folds
from pipeline.errors import UserInputError
from pipeline.runtime import generator
from pipeline.training import linear_probe
from pipeline.training.linear_probe import FoldResult, ProbeResult, cross_validated_accuracy
from pipeline.training.logme import logme
from tests.test_convex_head import clusters


def test_accuracy_is_the_mean_over_folds() -> None:
    features, labels = clusters(150, 12, 3)
    result = cross_validated_accuracy(
        features, labels, stratified_folds(labels, torch.arange(len(labels)), folds=5, seed=0)
    )
    assert len(result.folds) == 5 and result.converged and result.images == 150
    assert result.accuracy == pytest.approx(np.mean([fold.accuracy for fold in result.folds]))
    assert 0.8 < result.accuracy < 1


def test_random_labels_are_predicted_at_chance() -> None:
    features = torch.randn(300, 100, generator=generator(0, "features"))
    labels = torch.arange(300) % 3
    result = cross_validated_accuracy(
        features, labels, stratified_folds(labels, torch.arange(len(labels)), folds=5, seed=0)
    )
    low, high = result.interval()
    assert low < 1 / 3 < high and result.accuracy < 0.45


def test_heads_never_see_the_fold_they_are_scored_on(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(60, 4, 2)
    features[:, 0] = torch.arange(60.0)  # identifies the image
    folds = stratified_folds(labels, torch.arange(len(labels)), folds=4, seed=0)
    fitted: list[tuple[set[float], ...]] = []
    solve_head, solve_at = linear_probe.solve_head, linear_probe.solve_at

    def watched_solve_head(train: Tensor, a: Tensor, validation: Tensor, **options: object) -> object:
        fitted.append((set(train[:, 0].tolist()), set(validation[:, 0].tolist())))
        return solve_head(train, a, validation, **options)  # type: ignore[arg-type]

    def watched_solve_at(train: Tensor, a: Tensor, **options: object) -> object:
        fitted.append((set(train[:, 0].tolist()),))
        return solve_at(train, a, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(linear_probe, "solve_head", watched_solve_head)
    monkeypatch.setattr(linear_probe, "solve_at", watched_solve_at)
    cross_validated_accuracy(features, labels, folds)
    assert len(fitted) == 8
    for scored, (train, validation), (rest,) in zip(folds, fitted[::2], fitted[1::2], strict=True):
        everything = set(range(60))
        assert train | validation == rest == everything - set(scored.tolist())
        assert not train & validation


def test_interval_follows_nadeau_and_bengio() -> None:
    accuracies = [0.8, 0.9, 0.85, 0.7, 0.75]
    result = ProbeResult(tuple(FoldResult(value, 0.1, False, True) for value in accuracies), 100, 0.0)
    half_width = student_t.ppf(0.975, 4) * np.std(accuracies, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert result.interval() == pytest.approx((0.8 - half_width, min(1.0, 0.8 + half_width)))
    low, high = result.interval(0.8)
    assert low > 0.8 - half_width and high < 0.8 + half_width


def test_one_unconverged_fold_marks_the_probe() -> None:
    folds = (FoldResult(0.8, 0.1, False, True), FoldResult(0.8, 0.1, False, False))
    assert not ProbeResult(folds, 10, 0.0).converged


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([range(10), range(10, 30)], "folds=2: must be at least 3"),
        ([range(10), range(10, 20), range(19, 30)], "must be disjoint"),
        ([range(10), range(10, 20), range(20, 29)], "cover all 30 images"),
        ([range(10), range(10, 30), range(0)], "not empty"),
    ],
)
def test_bad_folds_are_rejected(folds: list[range], message: str) -> None:
    features, labels = clusters(30, 4, 3)
    with pytest.raises(UserInputError, match=message):
        cross_validated_accuracy(features, labels, [torch.tensor(list(fold), dtype=torch.int64) for fold in folds])


def direct_logme(features: Tensor, labels: Tensor) -> float:
    """Maximize the log density of the labels, as defined, over alpha and beta from several starts."""
    values = features.double().numpy()
    count = len(values)
    scores = []
    for label in range(int(labels.max()) + 1):
        indicator = (labels == label).double().numpy()

        def loss(logs: np.ndarray, indicator: np.ndarray = indicator) -> float:
            covariance = np.eye(count) / np.exp(logs[1]) + values @ values.T / np.exp(logs[0])
            mismatch = indicator @ np.linalg.solve(covariance, indicator)
            return (count * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + mismatch) / 2

        bounds = [(-10, 15), (-10, 15)]
        starts = [(0, 0), (5, 0), (-5, 3), (8, 2)]
        scores.append(max(-minimize(loss, start, bounds=bounds, method="L-BFGS-B").fun for start in starts))
    return float(np.mean(scores)) / count


def fixed_point_logme(features: Tensor, labels: Tensor) -> float:
    """The paper's algorithm 1, in matrix form: iterate alpha and beta, then evaluate the evidence."""
    values = features.double().numpy()
    count, units = values.shape
    scores = []
    for label in range(int(labels.max()) + 1):
        indicator = (labels == label).double().numpy()
        alpha, beta = 1.0, 1.0
        for _ in range(500):
            precision = alpha * np.eye(units) + beta * values.T @ values
            mean = beta * np.linalg.solve(precision, values.T @ indicator)
            eigenvalues = beta * np.linalg.eigvalsh(values.T @ values)
            gamma = (eigenvalues / (alpha + eigenvalues)).sum()
            alpha = gamma / (mean @ mean)
            beta = (count - gamma) / ((values @ mean - indicator) ** 2).sum()
        precision = alpha * np.eye(units) + beta * values.T @ values
        mean = beta * np.linalg.solve(precision, values.T @ indicator)
        fit = beta / 2 * ((values @ mean - indicator) ** 2).sum() + alpha / 2 * mean @ mean
        logs = count * math.log(beta) + units * math.log(alpha) - count * math.log(2 * math.pi)
        scores.append((logs - np.linalg.slogdet(precision)[1]) / 2 - fit)
    return float(np.mean(scores)) / count


@pytest.mark.parametrize(("count", "units", "classes"), [(40, 6, 3), (30, 3, 2), (15, 25, 3), (20, 20, 4)])
def test_logme_matches_its_definition(count: int, units: int, classes: int) -> None:
    features, labels = clusters(count, units, classes)
    features = features / features.std(0)
    assert logme(features, labels) == pytest.approx(direct_logme(features, labels), abs=1e-5)


@pytest.mark.parametrize(("count", "units", "classes"), [(60, 6, 3), (200, 10, 5)])
def test_logme_matches_the_fixed_point_of_the_paper(count: int, units: int, classes: int) -> None:
    features, labels = clusters(count, units, classes)
    features = features / features.std(0)
    assert logme(features, labels) == pytest.approx(fixed_point_logme(features, labels), abs=1e-6)


@given(factor=st.sampled_from([1e-4, 0.1, 30.0, 1e4]), repeats=st.integers(1, 3), seed=st.integers(0, 100))
@settings(max_examples=20)
def test_logme_ignores_scale_and_rotation(factor: float, repeats: int, seed: int) -> None:
    features, labels = clusters(50, 5, 3, seed=seed)
    features = features.double()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator(seed, "rotation"), dtype=torch.float64)).Q
    changed = torch.cat([factor * features @ rotation] * repeats, 1)
    assert logme(changed, labels) == pytest.approx(logme(features, labels), abs=1e-5)


def test_logme_is_higher_for_better_features() -> None:
    scores = []
    for distance in (0.0, 0.5, 1.0, 2.0):
        features, labels = clusters(200, 8, 3, distance=distance)
        scores.append(logme(features / features.std(0), labels))
    assert scores == sorted(scores)


def test_logme_rejects_features_that_are_all_zero() -> None:
    with pytest.raises(UserInputError, match="features: all are 0"):
        logme(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))


def test_logme_rejects_a_class_without_images() -> None:
    with pytest.raises(UserInputError, match="no images of classes 1"):
        logme(torch.ones(4, 3), torch.tensor([0, 2, 0, 2]))
