"""A trained model for use outside of a stage: load it, and `python -m pipeline export`, which makes it servable.

Steps of a plan log weights and records; `export` adds the graph that `mlflow models serve` needs, under the same URI.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.console import echo
from pipeline.errors import UserInputError, invalid
from pipeline.networks.origins.load import named_code
from pipeline.params.family import OWN_PREFIX
from pipeline.tracking.base_model import Base, load_base
from pipeline.tracking.graph_export import add_graph
from pipeline.tracking.store import open_store


def load_model_to_use(model: str, code: str = "") -> Base:
    """Return a trained model.

    Args:
        model: Its reference, in any form that `base` takes.
        code: The user's own code that builds its network, `own:PATH.py:FUNCTION`; empty for other networks.

    Raises:
        UserInputError: It cannot be loaded; the faults name the options `model` and `code`.
    """
    if code and not code.startswith(OWN_PREFIX):
        raise invalid("code", code, f"must be {OWN_PREFIX}PATH.py:FUNCTION.")
    with _faults_of("code"):
        source = named_code(code)
    with _faults_of("model", remedy="Each stage prints its model URI."):
        return load_base(open_store(), model, source)


def export(model: str, code: str = "") -> None:
    """Add the servable graph to a model, unless it has one, and print how to serve it; arguments as above."""
    base = load_model_to_use(model, code)
    added = add_graph(open_store(), base)
    echo(f"{base.model_uri}: {'graph exported' if added else 'already has its graph'}")
    echo(f"serve it with: mlflow models serve -m {base.model_uri} --env-manager local --port 5001")


@contextmanager
def _faults_of(name: str, remedy: str = "") -> Iterator[None]:
    """Name an option in all faults, and what to do about them."""
    try:
        yield
    except UserInputError as error:
        raise UserInputError(
            *(replace(fault, name=name, remedy=remedy or fault.remedy) for fault in error.faults)
        ) from None
