"""Solved heads: parity with scikit-learn, optimality, folding of the standardization, degenerate features, bad input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.data.records import Dataset
from pipeline.data.splits import LabelSample, Split, split_for_base, split_for_target
from pipeline.errors import UserInputError
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork, MLPArchitecture
from pipeline.runtime import generator
from pipeline.training.convex_head import L2_GRID, TOLERANCE, SolvedHead, _extrapolate, solve_at, solve_head
from pipeline.training.features import compute_features
from pipeline.training.lbfgs import minimize
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled
from pipeline.training.softmax_regression import SoftmaxRegression
from pipeline.training.standardization import measure, rotate
from tests.conftest import preprocessing


def clusters(count: int, units: int, classes: int, *, seed: int = 0, distance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rectified points around class centers, on different scales, float32."""
    draw, fixed = generator(seed, "points"), generator(0, "centers")
    labels = torch.arange(count) % classes
    centers = distance * torch.randn(classes, units, generator=fixed)
    scales = torch.logspace(-2, 2, units)
    return torch.relu(centers[labels] + torch.randn(count, units, generator=draw) + 0.5) * scales, labels


def solved(distance: float = 1.0, l2_grid: tuple[float, ...] = L2_GRID) -> SolvedHead:
    train, validation = clusters(120, 12, 3, distance=distance), clusters(90, 12, 3, seed=1, distance=distance)
    return solve_head(*train, validation[0], validation_labels=validation[1], l2_grid=l2_grid)


def standardized(features: Tensor, reference: Tensor) -> Tensor:
    """Standardize with the statistics of `reference`, without its constant units; independent of the solver's code."""
    reference = reference.double()
    varying = reference.std(0) > 0
    return ((features.double() - reference.mean(0)) / reference.std(0, correction=0))[:, varying]


def gradient_norm(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> float:
    """The norm of the objective's gradient in standardized features, by autograd, from a head on raw features."""
    raw, values = features.double(), standardized(features, features)
    varying, deviation = raw.std(0) > 0, raw.std(0, correction=0)
    inner = (weight * deviation)[:, varying].requires_grad_()
    shift = (bias + weight @ raw.mean(0)).detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(values @ inner.T + shift, labels) + l2 / 2 * inner.square().sum()
    gradients = torch.autograd.grad(loss, (inner, shift))
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def sklearn_model(features: Tensor, labels: Tensor, l2: float) -> LogisticRegression:
    """scikit-learn's minimizer of the same objective; with two classes it penalizes the difference of the weights."""
    factor = 2 if labels.max() == 1 else 1
    model = LogisticRegression(C=factor / (l2 * len(labels)), tol=1e-7, max_iter=100_000)
    with threadpool_limits(1):  # several threads that wait for busy cores take ten times as long
        return model.fit(standardized(features, features).numpy(), labels.numpy())


def probabilities(head: SolvedHead, features: Tensor) -> np.ndarray:
    return torch.softmax(features.double() @ head.weight.T + head.bias, 1).numpy()


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_probabilities_match_scikit_learn(classes: int, l2: float) -> None:
    features, labels = clusters(150, 12, classes, distance=0.5)
    others, other_labels = clusters(400, 12, classes, seed=1, distance=0.5)
    head = solve_head(features, labels, others, validation_labels=other_labels, l2_grid=(l2,))
    expected = sklearn_model(features, labels, l2).predict_proba(standardized(others, features).numpy())
    assert probabilities(head, others) == pytest.approx(expected, abs=1e-4)
    assert expected.max() - expected.min() > 0.3


def trained_network(split: Split, epochs: int) -> LayeredNetwork:
    """An MLP with two hidden layers, trained on a split."""
    architecture = MLPArchitecture.model_validate(
        {"preprocessing": preprocessing(), "classes": split.class_names, "hidden_layers": 2, "width": 40}
    )
    network = build_network(architecture, generator(0, "weights"))
    train, validation = (Labelled(network.scale(part.pixels), part.labels) for part in (split.train, split.validation))
    fit = Fit(network, train, validation, settings=FitSettings(epochs, epochs, 32, 1e-3, 1e-4, seed=0))
    assert list(fit)[-1].val_accuracy > 0.9
    return network


def check_parity_on_features(dataset: Dataset, base: LayeredNetwork, per_class: int) -> None:
    """Compare accuracy and probabilities with scikit-learn's at the chosen l2, at every cut."""
    split = split_for_target(dataset, (5, 6, 7, 8, 9), LabelSample(per_class, 30, 0.1, seed=0))
    parts = (split.train, split.validation, split.test)
    for depth in range(3):
        train, validation, test = (compute_features(base, depth, part).values.flatten(1) for part in parts)
        head = solve_head(train, split.train.labels, validation, validation_labels=split.validation.labels)
        assert head.converged and not head.at_grid_edge
        model = sklearn_model(train, split.train.labels, head.chosen.l2)
        inputs = standardized(test, train).numpy()
        expected = model.predict_proba(inputs)
        assert probabilities(head, test) == pytest.approx(expected, abs=1e-3)
        accuracy = float((head.predict(test) == split.test.labels).double().mean())
        assert accuracy == pytest.approx(model.score(inputs, split.test.labels.numpy()), abs=0.001)
        assert accuracy > 0.7


def test_start_of_the_next_penalty_is_extrapolated_quadratically() -> None:
    line, curve = (
        [torch.tensor([2.0 + 3 * k]) for k in range(3)],
        [torch.tensor([1.0 + 2 * k + k * k]) for k in range(4)],
    )
    assert (
        _extrapolate(line[:1]) == line[0] and _extrapolate(line[:2]) == line[2] and _extrapolate(curve[:3]) == curve[3]
    )


def test_digits_features_match_scikit_learn(digits: Dataset) -> None:
    base = trained_network(split_for_base(digits, (0, 1, 2, 3, 4), val_fraction=0.2, seed=0), epochs=20)
    check_parity_on_features(digits, base, per_class=60)


@pytest.mark.mnist
def test_mnist_features_match_scikit_learn(mnist: Dataset) -> None:
    split = split_for_target(mnist, (0, 1, 2, 3, 4), LabelSample(1000, 100, 0.1, seed=0))
    check_parity_on_features(mnist, trained_network(split, epochs=5), per_class=100)


@given(
    count=st.integers(4, 40),
    units=st.integers(1, 50),
    classes=st.integers(2, 4),
    constant=st.integers(0, 3),
    l2=st.sampled_from([1e-5, 1e-3, 0.1, 10.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_gradient_at_solution_is_below_tolerance(
    count: int, units: int, classes: int, constant: int, l2: float, seed: int
) -> None:
    features, labels = clusters(count, units, classes, seed=seed)
    features = torch.cat([features, torch.full((count, constant), 3.0)], 1)
    head = solve_head(features, labels, features, validation_labels=labels, l2_grid=(l2,))
    assert head.converged and head.chosen.gradient_norm <= TOLERANCE
    assert gradient_norm(features, labels, head.weight, head.bias, l2) <= 1.01 * TOLERANCE


@given(count=st.integers(2, 30), units=st.integers(1, 30), constant=st.integers(0, 4), seed=st.integers(0, 1000))
def test_folding_keeps_the_logits(count: int, units: int, constant: int, seed: int) -> None:
    draw = generator(seed, "features")
    features = torch.randn(count, units, generator=draw) * torch.logspace(-3, 3, units) + 2
    features = torch.cat([torch.full((count, constant), -1.5), features], 1)
    others = features.flip(0) * 1.5 + 1
    standardization = measure(features)
    weight = torch.randn(4, len(standardization.mean), generator=draw, dtype=torch.float64)
    bias = torch.randn(4, generator=draw, dtype=torch.float64)
    expected = standardization.apply(others) @ weight.T + bias
    folded_weight, folded_bias = standardization.fold(weight, bias)
    error = (others.double() @ folded_weight.T + folded_bias - expected).abs().max()
    assert error <= 1e-9 * (1 + expected.abs().max())
    assert not folded_weight[:, ~standardization.varying].any()


@given(count=st.integers(2, 30), units=st.integers(1, 30), seed=st.integers(0, 1000))
def test_rotation_keeps_inner_products(count: int, units: int, seed: int) -> None:
    values = torch.randn(count, units, generator=generator(seed, "values"), dtype=torch.float64)
    rotated, axes = rotate(values.clone())
    assert torch.allclose(rotated, values @ axes, atol=1e-12)
    assert torch.allclose(rotated @ rotated.T, values @ values.T, atol=1e-11)
    assert torch.allclose(axes.T @ axes, torch.eye(axes.shape[1], dtype=torch.float64), atol=1e-12)
    products = rotated.T @ rotated
    assert torch.allclose(products, products.diagonal().diag(), atol=1e-11)


def test_float32_linear_layer_gives_the_same_logits() -> None:
    head = solved()
    layer = torch.nn.Linear(12, 3)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    features, labels = clusters(90, 12, 3, seed=1)
    logits = layer(features).detach()
    assert torch.allclose(logits.double(), features.double() @ head.weight.T + head.bias, atol=1e-4)
    assert float(torch.nn.functional.cross_entropy(logits, labels)) == pytest.approx(head.chosen.val_loss, abs=1e-5)


def test_lowest_validation_loss_is_chosen() -> None:
    head = solved(distance=0.5)
    assert [point.l2 for point in head.path] == sorted(L2_GRID, reverse=True)
    assert head.chosen == min(head.path, key=lambda point: point.val_loss)
    assert not head.at_grid_edge and head.iterations == sum(point.iterations for point in head.path)


def test_choice_at_the_edge_of_the_grid_is_recorded() -> None:
    assert solved(l2_grid=(10.0, 100.0)).at_grid_edge
    assert not solved(l2_grid=(10.0,)).at_grid_edge  # nothing was chosen


def test_warm_start_does_not_change_the_solution() -> None:
    features, labels = clusters(120, 12, 3)
    path_end = solve_head(features, labels, features, validation_labels=labels, l2_grid=(1.0, 1e-2, 1e-4))
    direct = solve_at(features, labels, l2=path_end.chosen.l2)
    assert path_end.chosen.l2 == 1e-4  # validated on the training images
    assert torch.allclose(path_end.weight, direct.weight, atol=1e-3 * float(direct.weight.abs().max()))


def test_same_input_gives_bit_identical_head() -> None:
    first, second = solved(), solved()
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert first.path == second.path


def test_solving_does_not_modify_its_arguments() -> None:
    features, labels = clusters(60, 8, 3)
    features = features.double()
    before = features.clone()
    solve_head(features, labels, features, validation_labels=labels)
    assert torch.equal(features, before)


def test_constant_units_do_not_change_the_head() -> None:
    features, labels = clusters(100, 6, 3)
    constant = torch.full((100, 1), 0.1)
    rounding = constant * (1 + 1e-7 * torch.randn(100, 1, generator=generator(0, "rounding")))
    more = torch.cat([torch.zeros(100, 1), features, constant, rounding], 1)
    plain, head = (solve_head(part, labels, part, validation_labels=labels) for part in (features, more))
    assert head.dropped_units == 3 and plain.dropped_units == 0
    assert torch.allclose(head.weight[:, 1:7], plain.weight) and torch.allclose(head.bias, plain.bias)
    assert not head.weight[:, [0, 7, 8]].any()


def test_constant_features_predict_class_frequencies() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    head = solve_head(torch.ones(4, 5), labels, torch.ones(4, 5), validation_labels=labels)
    assert torch.softmax(head.bias, 0).tolist() == pytest.approx([0.75, 0.25], abs=1e-5)
    assert not head.weight.any() and head.dropped_units == 5


def test_separable_classes_converge_along_the_whole_grid() -> None:
    head = solved(distance=20.0)
    assert head.converged and all(math.isfinite(point.val_loss) for point in head.path)
    assert head.path[-1].val_accuracy == 1.0


def test_collinear_units_share_the_weight() -> None:
    features, labels = clusters(100, 6, 3)
    doubled = torch.cat([features, 3 * features], 1)
    head = solve_head(doubled, labels, doubled, validation_labels=labels, l2_grid=(1e-3,))
    assert head.converged
    assert torch.allclose(head.weight[:, :6], 3 * head.weight[:, 6:], rtol=1e-4, atol=1e-6)


def test_one_image_per_class_is_enough() -> None:
    features, labels = clusters(3, 200, 3)
    others, other_labels = clusters(60, 200, 3, seed=1)
    head = solve_head(features, labels, others, validation_labels=other_labels)
    assert head.converged and head.predict(features).tolist() == [0, 1, 2]


def test_stopped_solver_is_not_converged() -> None:
    features, labels = clusters(120, 12, 3)
    rotated, _ = rotate(measure(features).apply(features))
    regression = SoftmaxRegression(rotated, labels, 3)
    stopped = regression.solve(regression.zeros, l2=1e-6, tolerance=TOLERANCE, max_iterations=3)
    assert stopped.iterations == 3 and not stopped.converged and stopped.gradient_norm > TOLERANCE


def test_one_unconverged_grid_point_marks_the_head() -> None:
    head = solved()
    assert head.converged
    path = (*head.path[:-1], dataclasses.replace(head.path[-1], converged=False))
    assert not dataclasses.replace(head, path=path).converged


def steep(point: Tensor) -> tuple[float, Tensor]:
    """Sum of log cosh(20 x) + x^2 / 200: a full first step overshoots by far, and the minimum is much flatter."""
    value = (torch.logaddexp(20 * point, -20 * point) + point.square() / 200).sum()
    return float(value), 20 * torch.tanh(20 * point) + point / 100


def test_line_search_prevents_overshooting() -> None:
    start = torch.linspace(-3, 2, 7, dtype=torch.float64)
    values = []

    def recorded(gradient: Tensor) -> bool:
        values.append(float(gradient.norm()))
        return values[-1] <= 1e-9

    end = minimize(steep, start, is_converged=recorded, max_iterations=200)
    assert values[-1] <= 1e-9 and end.iterations == len(values) - 1
    assert end.point.abs().max() < 1e-9


def test_quadratic_is_minimized_in_few_iterations() -> None:
    curvature = torch.logspace(0, 4, 5, dtype=torch.float64)
    end = minimize(
        lambda point: (float((curvature * (point - 1) ** 2).sum() / 2), curvature * (point - 1)),
        torch.zeros(5, dtype=torch.float64),
        is_converged=lambda gradient: float(gradient.norm()) <= 1e-10,
        max_iterations=60,
    )
    assert end.iterations < 60 and torch.allclose(end.point, torch.ones(5, dtype=torch.float64), atol=1e-10)


def test_minimizer_stops_where_no_step_decreases_the_value() -> None:
    wrong_gradient = torch.tensor([1.0, -1.0], dtype=torch.float64)
    end = minimize(
        lambda point: (float(point @ point), wrong_gradient),
        torch.zeros(2, dtype=torch.float64),
        is_converged=lambda _: False,
        max_iterations=10,
    )
    assert end.iterations == 0 and not end.point.any()


GOOD = clusters(30, 4, 3)
BAD_INPUT = {
    "features=\\(30, 2, 2\\)": {"features": GOOD[0].reshape(30, 2, 2)},
    "features=\\(30, 4\\) torch.int64": {"features": GOOD[0].long()},
    "features: not finite for 2 of 30": {"features": GOOD[0].index_fill(0, torch.tensor([1, 2]), math.nan)},
    "needs one int64 label": {"labels": GOOD[1][:-1]},
    "there are no images of classes 1": {"labels": GOOD[1] * 2},
    "at least two classes": {"labels": torch.zeros(30, dtype=torch.int64)},
    "must have 4 units": {"validation_features": torch.ones(30, 3)},
    "validation_labels=4: must be below 3": {"validation_labels": GOOD[1] * 2},
    "l2_grid=\\(1.0, 0.0\\)": {"l2_grid": (1.0, 0.0)},
    "l2_grid=\\(\\)": {"l2_grid": ()},
    "tolerance=nan": {"tolerance": math.nan},
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_rejected(message: str) -> None:
    good = {"features": GOOD[0], "labels": GOOD[1], "validation_features": GOOD[0], "validation_labels": GOOD[1]}
    with pytest.raises(UserInputError, match=message):
        solve_head(**{**good, **BAD_INPUT[message]})  # type: ignore[arg-type]
