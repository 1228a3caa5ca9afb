"""Figures of a study, drawn with Optuna's matplotlib backend (plotly would need network access)."""

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from optuna.trial import TrialState

DOTS_PER_INCH = 110


def draw_study(study: optuna.Study, folder: Path) -> list[Path]:
    """Save the optimization history and, given two complete trials, parameter importances and parallel coordinates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    folder.mkdir(parents=True, exist_ok=True)
    plotters: dict[str, Callable[[optuna.Study], Axes]] = {"optimization_history": plots.plot_optimization_history}
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 1:
        plotters["parameter_importances"] = plots.plot_param_importances
        plotters["parallel_coordinates"] = plots.plot_parallel_coordinate
    paths = []
    for name, plot in plotters.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                figure = plot(study).get_figure(root=True)
            except (RuntimeError, ValueError):  # importances are undefined if all trials have the same value
                pyplot.close("all")
                continue
            assert figure is not None
            figure.set_size_inches(11, 5.5)
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DOTS_PER_INCH, bbox_inches="tight")
            pyplot.close("all")
    return paths
