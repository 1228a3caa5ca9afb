"""`python -m pipeline ENTRY_POINT --option value`, and the body of the command `transfer-pipeline`."""

import gc
import signal
import sys

if sys.platform == "win32":
    print("error: platform=win32: only Linux and macOS are supported; on Windows, use WSL", file=sys.stderr)
    sys.exit(2)

# Most of a command's start-up time is imports, and most of that is garbage collection that frees nothing.
gc.set_threshold(100_000, 50, 100)

EARLY_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(prog_name: str) -> None:
    """Run the command line; `prog_name` is the name of the command in help texts."""
    # Ctrl-C and SIGTERM wait until they can be handled: a run that `mlflow run` created must not stay RUNNING.
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    from pipeline.interruption import interruptible

    with interruptible(until_exit=True):
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
            from pipeline.cli import cli

            cli(prog_name=prog_name)
        except KeyboardInterrupt:  # before the command itself could handle it
            from pipeline.tracking.recovery.restore_killed import EXIT_INTERRUPTED, mark_adopted_run_killed

            mark_adopted_run_killed()
            sys.exit(EXIT_INTERRUPTED)
        finally:
            gc.freeze()  # nothing needs to be collected on exit


if __name__ == "__main__":
    main("python -m pipeline")
