"""`python -m pipeline ENTRY_POINT --option value`."""

import gc
import sys

if sys.platform == "win32":
    print("error: platform=win32: only Linux and macOS are supported; on Windows, use WSL", file=sys.stderr)
    sys.exit(2)

# Most of a command's start is imports, and most of that is the collector looking at what will never be garbage.
gc.set_threshold(100_000, 50, 100)

from pipeline.interruption import interruptible  # noqa: E402

if __name__ == "__main__":
    with interruptible(until_exit=True):
        try:
            from pipeline.cli import cli

            cli(prog_name="python -m pipeline")
        except KeyboardInterrupt:  # before the command itself could take care of it
            from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED, mark_adopted_run_killed

            mark_adopted_run_killed()
            sys.exit(EXIT_INTERRUPTED)
        finally:
            gc.freeze()  # nothing that lives now needs to be looked at on the way out
