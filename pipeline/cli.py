"""The command line: one thin click command per entry point.

Options come from the parameter records in `params/`. Values pass through click as text; `parse_params` validates them,
so that all faults, unknown options included, are reported together.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.console import configure_logging
from pipeline.disk_space import disk_full_message
from pipeline.errors import Fault, PlanIncompleteError, UserInputError
from pipeline.interruption import interruptible
from pipeline.params import ENTRY_POINTS, StageParams, parse_params
from pipeline.params.base import describe_default, field_info
from pipeline.redaction import without_password
from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED, mark_adopted_run_killed

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2


class Commands(click.Group):
    """Lists each command with its whole first sentence; `train-base` is accepted for `train_base`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, with hyphens or underscores."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the entry points, then the other commands."""
        others = [name for name in self.list_commands(ctx) if name not in ENTRY_POINTS]
        for title, listed in (("Entry points (stages)", ENTRY_POINTS), ("Other commands", others)):
            with formatter.section(title):
                formatter.write_dl([(name, first_line(self.commands[name].help)) for name in listed])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pipeline")
@click.option("--quiet", "level", flag_value=logging.WARNING, type=int, help="Log warnings and errors only.")
@click.option("--verbose", "level", flag_value=logging.DEBUG, type=int, help="Log debugging details.")
def cli(level: int | None) -> None:
    """Transfer-learning experiments, tracked with MLflow.

    Every stage is one MLflow run. `mlflow run . -e ENTRY_POINT -P name=value` calls these same commands.
    """
    configure_logging(level or logging.INFO)


def command_for(kind: type[StageParams]) -> click.Command:
    """Return the command of one entry point, its options read from its parameter record."""
    options: list[click.Parameter] = [option_for(name, kind) for name in kind.model_fields]
    return click.Command(
        kind.entry_point,
        params=options,
        callback=lambda **given: run_stage(kind, given),
        help=first_line(kind.__doc__),
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def first_line(text: str | None) -> str:
    """Return the first line of a docstring or help text."""
    return (text or "").strip().splitlines()[0]


def option_for(name: str, kind: type[StageParams]) -> click.Option:
    """Return the option of one parameter, with underscores or hyphens; `--dry_run` alone means `--dry_run true`."""
    field = kind.model_fields[name]
    info, default = field_info(field), describe_default(kind, name)
    unit = f" {info['unit']}" if info["unit"] and field.default not in ("auto", "all") else ""
    text = f"{field.description} [{info['allowed']}; {default if info['required'] else f'default: {default}{unit}'}]"
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    if field.annotation is bool:
        return click.Option(
            list(spellings), type=str, is_flag=False, flag_value="true", default=None, help=text, metavar="[VALUE]"
        )
    return click.Option(list(spellings), type=str, default=None, help=text, metavar="VALUE")


def run_stage(kind: type[StageParams], given: dict[str, str | None]) -> None:
    """Validate the options, run the stage, and turn errors into messages and exit codes."""
    raw: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with interruptible(until_exit=True):  # a second signal must not interrupt the shutdown
        try:
            raw.update(unknown_options(click.get_current_context().args))
            params = parse_params(kind, raw)
            from pipeline.execution.attempt import load_stage  # heavy imports only after validation

            load_stage(kind)(params)
        except UserInputError as error:
            print_faults(error)
            mark_adopted_run_failed(f"Rejected before anything started:\n\n{error}")
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            mark_adopted_run_killed()
            click.echo("interrupted; saved work is kept", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except PlanIncompleteError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_FAILED)
        except Exception as error:
            mark_adopted_run_failed(without_password(f"Failed with {type(error).__name__}: {error}"))
            full = disk_full_message(error)
            click.echo(f"error: {full}" if full else without_password(traceback.format_exc()), err=True)
            sys.exit(EXIT_FAILED)


def mark_adopted_run_failed(note: str) -> None:
    """Mark the run created by `mlflow run` as FAILED, if no stage has adopted it."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from pipeline.tracking.recovery.orphans import fail_unclaimed_run

        try:
            fail_unclaimed_run(note)
        except Exception as error:  # the store itself may be at fault; report the first error
            why = without_password(str(error))
            click.echo(f"warning: cannot end the run created by mlflow: {why}", err=True)


def unknown_options(words: list[str]) -> dict[str, str]:
    """Return what click left over as raw parameters: `name=value`, and options that validation rejects by name."""
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--") and not (equals and name.isidentifier()):
            remedy = "Write --name value or name=value."
            raise UserInputError(Fault(name, None, "is not an option.", remedy))
        options[name.removeprefix("--")] = value if equals else next(rest, "")
    return options


def print_faults(error: UserInputError) -> None:
    """Print one line per fault."""
    for fault in error.faults:
        click.echo(f"error: {fault}", err=True)


@contextmanager
def exit_codes(bad_input: int = EXIT_BAD_INPUT) -> Iterator[None]:
    """Turn bad input and interrupts of a command that creates no run into messages and exit codes."""
    try:
        with interruptible():
            yield
    except UserInputError as error:
        print_faults(error)
        sys.exit(bad_input)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


@cli.command()
def setup() -> None:
    """Create the tracking store (schema; write-ahead logging for sqlite); say how to run stages on this machine."""
    from pipeline.launching import ways_to_run
    from pipeline.tracking.store import open_store

    environment = dict(os.environ)
    with exit_codes():
        open_store()
        for line in ways_to_run(environment):
            click.echo(line)


@cli.command()
def status() -> None:
    """Show the progress of the plans that are running with this state folder."""
    from pipeline.execution.status import print_status

    with exit_codes():
        print_status()


@cli.command()
def sync() -> None:
    """Upload what interrupted runs left in the local state; exit 1 if something is still pending."""
    from pipeline.tracking.recovery.sync import sync_runs

    with exit_codes(bad_input=EXIT_FAILED):
        sys.exit(0 if sync_runs() else EXIT_FAILED)


@cli.command("clean")
@click.option(
    "--dry_run", "--dry-run", type=click.BOOL, is_flag=False, flag_value="true", default=True, show_default=True,
    metavar="[VALUE]", help="List only; remove nothing.",
)  # fmt: skip
def clean_command(dry_run: bool) -> None:
    """List local state with size and age; with --dry_run false, remove what is no longer needed."""
    from pipeline.clean import clean

    with exit_codes():
        clean(dry_run=dry_run)


@cli.command()
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


@cli.command()
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


@cli.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--fail_on_regression", "--fail-on-regression", is_flag=True, help="Exit 1 if a verdict says worse.")
def compare_command(a: str, b: str, fail_on_regression: bool) -> None:
    """Compare two runs or two plan runs (ids): settings, data, code, results, and a verdict per arm."""
    from pipeline.comparison import compare, regressions

    with exit_codes():
        worse = regressions(compare(a, b))
        if worse and fail_on_regression:
            click.echo(f"error: B is worse than A: {', '.join(arm or 'the run' for arm in worse)}", err=True)
            sys.exit(EXIT_FAILED)


MODEL_OPTION = click.option(
    "--model", required=True, metavar="URI", help="models:/m-ID, models:/NAME@ALIAS, or a run id."
)
CODE_OPTION = click.option(
    "--code", default="", metavar="own:PATH.py:FUNCTION", help="Your own code that the network is made of; it runs."
)


@cli.command("predict")
@MODEL_OPTION
@click.option("--images", "first", multiple=True, type=click.Path(path_type=Path), help="Files or folders.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--output", type=click.Path(path_type=Path), default="predictions.csv", show_default=True)
@click.option("--request", type=click.Path(path_type=Path), help="Also write a request for the served model.")
@CODE_OPTION
def predict_command(
    model: str, first: tuple[Path, ...], more: tuple[Path, ...], output: Path, request: Path | None, code: str
) -> None:
    """Classify image files with a trained model: a table, and a CSV file with all probabilities."""
    from pipeline.prediction import predict

    with exit_codes():
        predict(model, (*first, *more), output=output, request=request, code=code)


@cli.command("export")
@MODEL_OPTION
@CODE_OPTION
def export_command(model: str, code: str) -> None:
    """Add the servable graph to a model that has none, such as that of a plan step; the URI stays the same."""
    from pipeline.trained_model import export

    with exit_codes():
        export(model, code)


@cli.command("sample_photos")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--per_class", "--per-class", type=click.IntRange(10, 10_000), default=60, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def sample_photos_command(path: Path, per_class: int, seed: int) -> None:
    """Generate a folder of small color photos in six classes, to try `folder:` without photos of your own."""
    from pipeline.sample_photos import sample_photos

    with exit_codes():
        sample_photos(path, per_class=per_class, seed=seed)


@cli.command()
def doctor() -> None:
    """Check the environment; exit 1 if a stage would fail."""
    environment = dict(os.environ)  # before opening a store, which sets defaults of its own
    from pipeline.doctor import run_checks

    with exit_codes():
        sys.exit(EXIT_FAILED if run_checks(environment) else 0)


for _kind in ENTRY_POINTS.values():
    cli.add_command(command_for(_kind))
