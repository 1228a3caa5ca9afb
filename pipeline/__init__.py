"""Reproducible transfer-learning experiments, tracked with MLflow.

Read `cli` (one command per entry point), then `stages` (one function per entry point), then the packages that stages
import: `plan`, `report`, `tuning`, `tracking`, `training`, `networks`, `data`, `params`. Imports go one way, from `cli`
down to `errors`.
"""

import os

# OpenMP threads that wait sleep instead of spinning (the default). Spinning saves microseconds on an idle machine, but
# makes an optimizer step 15 to 25 times slower when other processes need the cores. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
