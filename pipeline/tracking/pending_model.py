"""Models whose delivery is pending: what is known of them is in the local state of their runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import logged_entries
from pipeline.tracking.outbox.local_state import run_folder


@dataclass(frozen=True)
class PendingModel:
    """A model that lies whole in local state, and has not arrived at the store.

    Attributes:
        run_id: Of its run, as its process knew it.
        files: Its folder.
        run_tags: As its run has logged them.
        model_tags: As its logged model will have them.
        metrics: The final ones of its run.
    """

    run_id: str
    files: Path
    run_tags: dict[str, str]
    model_tags: dict[str, str]
    metrics: dict[str, float]


def run_id_of(reference: str) -> str:
    """Return the run that `runs:/ID/model` or a bare id names."""
    return reference.removeprefix("runs:/").split("/")[0]


def pending_model(reference: str) -> PendingModel | None:
    """Return the model of a run where it is pending; None where it has arrived, or for another kind of reference."""
    if reference.startswith("models:/"):
        return None
    run_id = run_id_of(reference)
    folder = run_folder(run_id)
    if (folder / names.MODEL_URI).exists():
        return None
    run_tags: dict[str, str] = {}
    model = None
    for entry in logged_entries(folder):
        run_tags |= entry["tags"] if entry["kind"] == "tags" else {}
        model = entry if entry["kind"] == "model" else model
    if model is None:
        return None
    metrics = {str(name): float(value) for name, value, _, _ in model["metrics"]}
    return PendingModel(run_id, folder / names.MODEL, run_tags, model["tags"], metrics)
