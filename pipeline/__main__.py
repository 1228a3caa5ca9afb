"""`python -m pipeline ENTRY_POINT --option value`."""

import gc

# Most of a command's start is imports, and most of that is the collector looking at what will never be garbage.
gc.set_threshold(100_000, 50, 100)

from pipeline.cli import cli  # noqa: E402

if __name__ == "__main__":
    try:
        cli(prog_name="python -m pipeline")
    finally:
        gc.freeze()  # nothing that lives now needs to be looked at on the way out
