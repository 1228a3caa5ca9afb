"""Commands that are not entry points: they create no run. Each imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipeline.exit_codes import EXIT_FAILED, exit_codes

MODEL_OPTION = click.option(
    "--model", required=True, metavar="URI", help="models:/m-ID, models:/NAME@ALIAS, or a run id."
)
CODE_OPTION = click.option(
    "--code", default="", metavar="own:PATH.py:FUNCTION", help="Your own code that builds the network; it is executed."
)


@click.command()
def setup() -> None:
    """Create the tracking store (schema; write-ahead logging for sqlite); print how to run stages on this machine."""
    from pipeline.launching import ways_to_run
    from pipeline.tracking.store import open_store

    environment = dict(os.environ)
    with exit_codes():
        open_store()
        for line in ways_to_run(environment):
            click.echo(line)


@click.command()
def status() -> None:
    """Show the progress of running plans, as far as they share this state folder."""
    from pipeline.execution.status import print_status

    with exit_codes():
        print_status()


@click.command()
def sync() -> None:
    """Upload what interrupted runs left in the local state; exit 1 if something is still pending."""
    from pipeline.tracking.recovery.sync import sync_runs

    with exit_codes(bad_input=EXIT_FAILED):
        sys.exit(0 if sync_runs() else EXIT_FAILED)


@click.command("clean")
@click.option(
    "--dry_run", "--dry-run", type=click.BOOL, is_flag=False, flag_value="true", default=True, show_default=True,
    metavar="[VALUE]", help="List only; remove nothing.",
)  # fmt: skip
def clean_command(dry_run: bool) -> None:
    """List local state with size and age; with --dry_run false, remove what is no longer needed."""
    from pipeline.clean import clean

    with exit_codes():
        clean(dry_run=dry_run)


@click.command()
@click.option(
    "--mlflow_port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of MLflow's UI."
)
@click.option(
    "--dashboard_port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Port of the Optuna dashboard.",
)
def ui(mlflow_port: int, dashboard_port: int) -> None:
    """Start MLflow's UI and the Optuna dashboard on loopback."""
    from pipeline.tracking.store import active_experiment_id, open_store
    from pipeline.tracking.ui_page import runs_page
    from pipeline.tuning.study import open_storage
    from pipeline.ui import serve_uis

    with exit_codes():
        client = open_store()
        open_storage()
        page = runs_page(client, active_experiment_id())
        serve_uis(client.tracking_uri, mlflow_port, dashboard_port, page=page)


@click.command()
@click.option("--model", required=True, metavar="NAME", help="torchvision:NAME, timm:NAME or own:PATH.py:FUNCTION.")
@click.option(
    "--image_size", "--image-size", type=click.IntRange(8, 1024), help="Input size in pixels (default: the network's)."
)
@click.option(
    "--blocks", "modules", default="", metavar="A,B,...", help="Modules to use as blocks (default: automatic)."
)
def blocks(model: str, image_size: int | None, modules: str) -> None:
    """List the blocks of a network: name, output shape, parameters, MACs. own:PATH.py:FUNCTION runs that file."""
    from pipeline.blocks import print_blocks

    with exit_codes():
        print_blocks(model, image_size, modules)


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--fail_on_regression", "--fail-on-regression", is_flag=True, help="Exit 1 if B is worse by any verdict.")
def compare_command(a: str, b: str, fail_on_regression: bool) -> None:
    """Compare two runs or two plan runs (ids): settings, data, code, results, and a verdict per arm."""
    from pipeline.comparison import compare, regressions

    with exit_codes():
        worse = regressions(compare(a, b))
        if worse and fail_on_regression:
            click.echo(f"error: B is worse than A: {', '.join(arm or 'the run' for arm in worse)}", err=True)
            sys.exit(EXIT_FAILED)


@click.command("predict")
@MODEL_OPTION
@click.option("--images", "first", multiple=True, type=click.Path(path_type=Path), help="Files or folders.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--output", type=click.Path(path_type=Path), default="predictions.csv", show_default=True)
@click.option("--request", type=click.Path(path_type=Path), help="Also write a request for the served model.")
@CODE_OPTION
def predict_command(
    model: str, first: tuple[Path, ...], more: tuple[Path, ...], *, output: Path, request: Path | None, code: str
) -> None:
    """Classify image files with a trained model: a table, and a CSV file with all probabilities."""
    from pipeline.prediction import predict

    with exit_codes():
        predict(model, (*first, *more), output=output, request=request, code=code)


@click.command("export")
@MODEL_OPTION
@CODE_OPTION
def export_command(model: str, code: str) -> None:
    """Add the servable graph to a model that has none, such as that of a plan step; the URI stays the same."""
    from pipeline.trained_model import export

    with exit_codes():
        export(model, code)


@click.command("sample_photos")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--per_class", "--per-class", type=click.IntRange(10, 10_000), default=60, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def sample_photos_command(path: Path, per_class: int, seed: int) -> None:
    """Generate a folder of small color photos in six classes, to try `folder:` without photos of your own."""
    from pipeline.sample_photos import sample_photos

    with exit_codes():
        sample_photos(path, per_class=per_class, seed=seed)


@click.command()
def doctor() -> None:
    """Check the environment; exit 1 if a stage would fail."""
    environment = dict(os.environ)  # before opening a store, which sets defaults of its own
    from pipeline.doctor import run_checks

    with exit_codes():
        sys.exit(EXIT_FAILED if run_checks(environment) else 0)


COMMANDS = (
    setup,
    status,
    sync,
    clean_command,
    ui,
    blocks,
    compare_command,
    predict_command,
    export_command,
    sample_photos_command,
    doctor,
)
