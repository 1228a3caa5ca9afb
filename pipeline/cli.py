"""The command line: one thin command an entry point; the only file that knows click.

Every option comes from `params.py`. Values pass through click as text, so that all faults are found by one
checker and reported together, and an unknown option is one of them.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from pipeline.console import configure_logging
from pipeline.disk_space import disk_full_message
from pipeline.errors import Fault, PlanIncompleteError, UserInputError
from pipeline.interruption import interruptible
from pipeline.params import ENTRY_POINTS, StageParams, parse_params, spell
from pipeline.redaction import without_password
from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED, mark_adopted_run_killed

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Transfer-learning experiments, tracked with MLflow.

    Every stage is one MLflow run. `mlflow run . -e ENTRY_POINT -P name=value` calls these same commands.
    """
    configure_logging()


def command_for(kind: type[StageParams]) -> click.Command:
    """Return the command of one entry point, its options read from its parameter record."""
    options: list[click.Parameter] = [option_for(name, kind) for name in kind.model_fields]
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    return click.Command(
        kind.entry_point,
        params=options,
        callback=lambda **given: run_stage(kind, given),
        help=summary,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def option_for(name: str, kind: type[StageParams]) -> click.Option:
    """Return the option of one parameter, accepted with underscores and with hyphens."""
    field = kind.model_fields[name]
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    unit = f" {extra['unit']}" if extra["unit"] and field.default != "auto" else ""
    text = f"{field.description} [{extra['allowed']}; default: {spell(field.default) or 'none'}{unit}]"
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return click.Option(list(spellings), type=str, default=None, help=text, metavar="VALUE")


def run_stage(kind: type[StageParams], given: dict[str, str | None]) -> None:
    """Check the options, call the stage, turn the user's faults into lines and exit codes."""
    raw: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with interruptible(until_exit=True):  # a second signal must not disturb what the first one has made us do
        try:
            raw.update(unknown_options(click.get_current_context().args))
            params = parse_params(kind, raw)
            load_stage(kind.entry_point)(params)  # the heavy imports come once the parameters have been found good
        except UserInputError as error:
            refuse(error)
        except KeyboardInterrupt:
            mark_adopted_run_killed()
            click.echo("interrupted: what has been saved is kept", err=True)
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
    """End the run that `mlflow run` made, if no stage has taken it over, as FAILED."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from pipeline.tracking.recovery.orphans import fail_unclaimed_run

        try:
            fail_unclaimed_run(note)
        except Exception as error:  # the store may be what was refused: the first fault is the one to be told
            why = without_password(str(error))
            click.echo(f"warning: the run that mlflow made could not be ended: {why}", err=True)


def load_stage(entry_point: str) -> Callable[[StageParams], object]:
    """Return the function `pipeline.stages.<entry_point>.<entry_point>`, imported when it is needed."""
    stage: Callable[[StageParams], object] = getattr(
        importlib.import_module(f"pipeline.stages.{entry_point}"), entry_point
    )
    return stage


def unknown_options(words: list[str]) -> dict[str, str]:
    """Return what click did not recognise, as raw parameters for the checker to refuse by name."""
    found: dict[str, str] = {}
    position = 0
    while position < len(words):
        name, equals, value = words[position].partition("=")
        if not name.startswith("--"):
            raise UserInputError(Fault(name, None, "is not an option.", "Options are written --name value."))
        if not equals and position + 1 < len(words):
            position += 1
            value = words[position]
        found[name.removeprefix("--")] = value
        position += 1
    return found


def refuse(error: UserInputError) -> None:
    """Print the faults, note them on the run that `mlflow run` made, and exit."""
    for fault in error.faults:
        click.echo(f"error: {fault}", err=True)
    mark_adopted_run_failed(f"Refused before anything started:\n\n{error}")
    sys.exit(EXIT_BAD_INPUT)


@cli.command()
def setup() -> None:
    """Create the tracking store: its schema, and write-ahead logging for sqlite."""
    from pipeline.tracking.store import open_store

    try:
        open_store()
    except UserInputError as error:
        refuse(error)


@cli.command()
def sync() -> None:
    """Deliver what runs whose process is gone have left behind; exit with 1 where something is still pending."""
    from pipeline.tracking.outbox.sync import sync_runs

    try:
        with interruptible():
            sys.exit(0 if sync_runs() else EXIT_FAILED)
    except UserInputError as error:
        for fault in error.faults:
            click.echo(f"error: {fault}", err=True)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


@cli.command("clean")
@click.option("--dry_run", "--dry-run", type=click.BOOL, default=True, show_default=True, metavar="VALUE")
def clean_command(dry_run: bool) -> None:
    """List what commands have left on disk, with size and age; with --dry_run false, remove what nothing needs."""
    from pipeline.clean import clean

    try:
        with interruptible():
            clean(dry_run=dry_run)
    except UserInputError as error:
        refuse(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


@cli.command()
@click.option("--mlflow_port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--dashboard_port", type=click.IntRange(1, 65535), default=8080, show_default=True)
def ui(mlflow_port: int, dashboard_port: int) -> None:
    """Start MLflow's UI and the Optuna dashboard, on this machine only."""
    from pipeline.tracking.store import open_store
    from pipeline.tuning.study import open_storage
    from pipeline.ui import serve_uis

    try:
        with interruptible():
            tracking_uri = open_store().tracking_uri
            open_storage()
            serve_uis(tracking_uri, mlflow_port, dashboard_port)
    except UserInputError as error:
        refuse(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


@cli.command()
def doctor() -> None:
    """Look whether a stage would find what it needs; exit 1 where something would fail."""
    environment = dict(os.environ)  # as it came: opening a store sets defaults of its own
    from pipeline.doctor import run_checks

    with interruptible():
        sys.exit(EXIT_FAILED if run_checks(environment) else 0)


for _kind in ENTRY_POINTS.values():
    cli.add_command(command_for(_kind))
