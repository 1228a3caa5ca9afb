"""Transfer-learning experiments one can trust, tracked with MLflow.

The way in: `cli.py` (one command an entry point) calls `stages/` (one function an entry point); a stage
reads like the sentence that describes it. Imports go one way, from cli down to params and errors.
"""

__version__ = "0.1.0"
