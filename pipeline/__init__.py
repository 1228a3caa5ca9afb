"""Reproducible transfer-learning experiments, tracked with MLflow.

Start at `cli.py` (one command per entry point), which calls `stages/` (one function per entry point).
Imports go one way, from cli down to params and errors.
"""

import os

# Threads of one step wait asleep for each other. Spinning, as is the default, pays by microseconds on an idle machine,
# and makes a step take 15 to 25 times as long where other processes want the cores. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
