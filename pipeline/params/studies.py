"""Parameters of entry points that train nothing themselves: whole studies, reports, and going on with a run."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.params.base import StageParams, check_classes, setting
from pipeline.params.training import MachineChoice


class MainParams(MachineChoice):
    """Carry out a whole plan, both reference studies by default, and write its report."""

    entry_point: ClassVar[str] = "main"

    plan: str = setting(
        "assignments", "What to carry out: a plan that ships, or a YAML file.", allowed="assignments, surface or a file"
    )
    profile: str = setting("quick", "Which budget of the plan.", allowed="quick, full, or another one of the plan")
    seeds: int | Literal["auto"] = setting(
        "auto",
        "Repeat every arm with seeds 0 to this - 1; auto leaves it to the profile.",
        allowed="auto or a whole number from 1 to 1000",
        unit="seeds",
    )
    base_classes: str = setting(
        "auto", "Classes of every base; auto leaves them to the plan.", allowed="auto, or class numbers such as 0-4"
    )
    target_classes: str = setting(
        "auto", "Classes of every target; auto leaves them to the plan.", allowed="auto, or class numbers such as 5-9"
    )
    rerun: bool = setting(
        False, "Run every step again, finished or not.", allowed="true or false", changes_result=False
    )
    explain: bool = setting(
        False, "Say for each step why it is recognised or not.", allowed="true or false", changes_result=False
    )
    folder: str = setting("reports", "Where the report goes.", allowed="a folder", changes_result=False)

    @field_validator("plan", "profile", "folder")
    @classmethod
    def _something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("")
        return value

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 1000:
            raise ValueError("")
        return value

    @field_validator("base_classes", "target_classes")
    @classmethod
    def _classes(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "auto" else check_classes(value, info)


class ReportParams(StageParams):
    """Write a study's report again, or compare finished runs in one table and one figure."""

    entry_point: ClassVar[str] = "report"

    runs: str = setting(
        "auto",
        "A study's run, or the runs to compare; auto takes the newest study, or else the newest fine-tuned CNN, its "
        "base and its scratch arm.",
        allowed="auto, or run ids separated by commas",
    )
    folder: str = setting("reports", "Where the files go.", allowed="a folder", changes_result=False)

    @field_validator("runs")
    @classmethod
    def _run_ids(cls, value: str) -> str:
        if value != "auto" and not re.fullmatch(r"[0-9a-f]{32}(,[0-9a-f]{32})*", value):
            raise ValueError("")
        return value


class ResumeParams(StageParams):
    """Go on with a run that was interrupted, from its last checkpoint."""

    entry_point: ClassVar[str] = "resume"

    run_id: str = setting(
        "", "The interrupted run; a stage prints its id.", allowed="a run id, of 32 hexadecimal digits"
    )
    force: bool = setting(
        False,
        "Resume a run though nothing here shows that its process is gone; two processes in one run spoil it.",
        allowed="true or false",
        changes_result=False,
    )

    @field_validator("run_id")
    @classmethod
    def _one_run(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{32}", value):
            raise ValueError("the interrupted stage has printed it, and the MLflow UI shows it")
        return value
