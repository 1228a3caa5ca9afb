"""A study's figures, by Optuna's own matplotlib visualizations (its plotly ones would need a network)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from optuna.trial import TrialState

DOTS_PER_INCH = 110


def draw_study(study: optuna.Study, folder: Path) -> list[Path]:
    """Write optimization history, parameter importances and parallel coordinates, where there are trials enough."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    folder.mkdir(parents=True, exist_ok=True)
    complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    drawings: dict[str, Callable[[optuna.Study], Axes]] = {"optimization_history": plots.plot_optimization_history}
    if complete > 1:
        drawings["parameter_importances"] = plots.plot_param_importances
        drawings["parallel_coordinates"] = plots.plot_parallel_coordinate
    written = []
    for name, draw in drawings.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                axes = draw(study)
            except (RuntimeError, ValueError):  # importances of trials that all score the same
                pyplot.close("all")
                continue
            figure = axes.get_figure(root=True)
            assert figure is not None
            figure.set_size_inches(11, 5.5)
            figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH, bbox_inches="tight")
            pyplot.close("all")
        written.append(folder / f"{name}.png")
    return written
