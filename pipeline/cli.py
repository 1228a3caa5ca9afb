"""The command line: one thin click command per entry point, and those of `commands`.

Options come from the parameter records in `params/`. Values pass through click as text; `parse_params` validates them,
so that all faults, unknown options included, are reported together.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import click

from pipeline import __version__
from pipeline.commands import COMMANDS
from pipeline.console import configure_logging
from pipeline.disk_space import disk_full_message
from pipeline.errors import ClusterLostError, Fault, PlanIncompleteError, UserInputError
from pipeline.exit_codes import EXIT_BAD_INPUT, EXIT_FAILED, mark_adopted_run_failed, print_faults
from pipeline.interruption import interruptible
from pipeline.params import ENTRY_POINTS, StageParams, parse_params
from pipeline.params.base import describe_default, field_info
from pipeline.redaction import without_password
from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED, mark_adopted_run_killed


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
        callback=lambda **options: run_stage(kind, options),
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


def run_stage(kind: type[StageParams], options: dict[str, str | None]) -> None:
    """Validate the options, run the stage, and turn errors into messages and exit codes."""
    raw: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
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
        except (PlanIncompleteError, ClusterLostError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_FAILED)
        except Exception as error:
            mark_adopted_run_failed(without_password(f"Failed with {type(error).__name__}: {error}"))
            full = disk_full_message(error)
            click.echo(f"error: {full}" if full else without_password(traceback.format_exc()), err=True)
            sys.exit(EXIT_FAILED)


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


for _command in (*COMMANDS, *map(command_for, ENTRY_POINTS.values())):
    cli.add_command(_command)
