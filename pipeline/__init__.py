"""Reproducible transfer-learning experiments, tracked with MLflow.

Start at `cli.py` (one command per entry point), which calls `stages/` (one function per entry point).
Imports go one way, from cli down to params and errors.
"""

__version__ = "0.1.0"
