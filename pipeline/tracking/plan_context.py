"""The plan run that a stage is a step of, as far as the stage needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.params import StageParams
from pipeline.tracking.claims import Claim


class NotCachedError(RuntimeError):
    """A step has no cached result, and only a cached one was requested."""


def _reserve_nothing(params: StageParams) -> None:
    """Do not wait: nothing else runs on this machine."""


@dataclass
class PlanContext:
    """The plan run that a step belongs to."""

    parent_run_id: str | None  # of the plan run; None to look for a cached result only
    rerun: bool = False  # ignore cached results
    tags: Mapping[str, str] = field(default_factory=dict)  # of the step's run: the arm
    why: str = ""  # explains the cache hit or miss of the last step
    claim: Claim | None = None  # of the running step
    save_log: Callable[[Path], None] | None = None  # writes what the step has printed so far to a file
    reserve: Callable[[StageParams], None] = _reserve_nothing  # waits until the host has the cores that a step needs
