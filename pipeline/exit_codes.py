"""Exit codes of the command line, and how errors become one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pipeline.errors import UserInputError
from pipeline.interruption import interruptible
from pipeline.redaction import without_password
from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2


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


def mark_adopted_run_failed(note: str) -> None:
    """Mark the run created by `mlflow run` as FAILED, if no stage has adopted it."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from pipeline.tracking.recovery.orphans import fail_unclaimed_run

        try:
            fail_unclaimed_run(note)
        except Exception as error:  # the store itself may be at fault; report the first error
            why = without_password(str(error))
            click.echo(f"warning: cannot end the run created by mlflow: {why}", err=True)
