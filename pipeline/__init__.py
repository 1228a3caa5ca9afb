"""Reproducible transfer-learning experiments, tracked with MLflow.

Read `cli` (one command per entry point; `commands` has the others, `exit_codes` turns errors into exit codes), then
`stages` (one function per entry point), then the packages that stages import: `execution`, `plan`, `report`,
`statistics`, `tuning`, `tracking`, `training`, `networks`, `data`, `params`. Imports go one way, from `cli` down to
`errors`.

The modules here are the bodies of single commands (`blocks`, `clean` with `leftovers`, `comparison`, `doctor` with
`checks`, `launching`, `prediction`, `sample_photos`, `trained_model`, `ui`), and what every package may use: `console`,
`runtime`, `interruption`, `disk_space`, `state_dir`, `yaml_lines`, `redaction`.
"""

import ctypes
import os
import sys

# Idle threads of a step spin for a few microseconds, then sleep. Spinning forever, the default, makes a step take
# many times as long if other processes compete for the cores; sleeping at once makes a CNN's epoch 1.7 times as long on
# an idle machine (docs/defaults.md). Read when torch is loaded.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["GOMP_SPINCOUNT"] = "1000"

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    # Every step frees and allocates the same activations. Returning their pages to the system costs 8 to 10 % of the
    # CPU time of a CNN's training.
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 512 << 20)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 << 20)

__version__ = "0.1.0"
