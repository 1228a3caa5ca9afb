"""Messages between the runner of a plan and the processes that run its steps; all can be written as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How an attempt to run a step ended."""

    DONE = "done"
    FAILED = "failed"
    NOT_CACHED = "not cached"  # only its cached result was requested
    LOST = "lost"  # its process was killed
    CLAIMED = "claimed"  # another command runs it


@dataclass(frozen=True)
class Task:
    """A step that is ready to run."""

    number: int  # of the step in the plan
    entry_point: str
    raw_params: dict[str, Any]  # with the URI of its base model
    parent_run_id: str = ""  # of the plan run; empty to look for a cached result only
    rerun: bool = False  # ignore cached results
    exclusive: bool = False  # nothing else runs on its machine
    tags: dict[str, str] = field(default_factory=dict)  # of its run: the arm


@dataclass(frozen=True)
class Report:
    """The result of an attempt to run a step."""

    number: int
    status: Status
    run_id: str = ""
    model_uri: str = ""
    metrics: dict[str, float] = field(default_factory=dict)  # final ones
    reused: bool = False  # whether this is a cached result
    failure: str = ""  # why it failed, or empty
    why: str = ""  # explains the cache hit or miss
    claim_key: str = ""  # of the claim that another command holds
    seconds: float = 0.0  # wall-clock time of the attempt


@dataclass(frozen=True)
class Output:
    """A line that a running step has printed or logged."""

    number: int
    text: str
    warning: bool = False


Event = Report | Output
