"""Records of the entry points that train nothing themselves: `main` (a plan), `report` and `resume`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import RUN_ID, Auto, StageParams, Text, setting
from pipeline.params.data import DataParams, check_classes
from pipeline.params.family import OWN_PATTERN
from pipeline.params.target import BASE_PATTERN
from pipeline.params.training import MachineParams


class MainParams(MachineParams, DataParams):
    """Run a plan (default: both reference studies) and write its report."""

    entry_point: ClassVar[str] = "main"

    plan: Text = setting(
        "assignments",
        "Plan to run: a built-in plan, or a YAML file.",
        allowed="the name of a built-in plan (docs/plans.md), or a file",
    )
    profile: Text = setting(
        "quick", "Profile (budget) of the plan.", allowed="quick, full, paper, or another profile of the plan"
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] | Auto | Literal["sequential"] = setting(
        "auto",
        "Number of seeds per arm (default: set by the profile). sequential: 5, 8, 12, 20 until questions are settled.",
        unit="seeds",
    )
    max_seeds: Annotated[int, Field(ge=5, le=1000)] = setting(
        20, "With seeds=sequential, the largest number of seeds per arm.", unit="seeds"
    )
    max_minutes: Annotated[float, Field(gt=0, le=100_000)] | Auto = setting(
        "auto",
        "With seeds=sequential, start no round that would end later than this (default: no limit).",
        unit="minutes",
    )
    base: Annotated[str, Field(pattern=BASE_PATTERN)] = setting(
        "auto",
        "An existing base in place of the plan's own. auto: the base that the plan trains.",
        allowed="auto, models:/m-ID, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a run id",
        hint="import_base and train_base print the model URI.",
    )
    model: Annotated[str, Field(pattern=OWN_PATTERN)] = setting(
        "",
        "Your own code, if it built the existing base: never executed unless named again.",
        allowed="empty, or own:PATH.py:FUNCTION as it was given to import_base or train_base",
        changes_result=False,
    )
    base_classes: str = setting(
        "auto", "Classes of every base (default: set by the plan).", allowed="auto, or classes such as 0-4 or ants,bees"
    )
    target_classes: str = setting(
        "auto",
        "Classes of every target (default: set by the plan).",
        allowed="auto, or classes such as 5-9 or ants,bees",
    )
    class_split: Literal["fixed", "random"] = setting(
        "fixed",
        "fixed: all seeds use the same base and target classes; random: each seed draws as many from all classes.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] | Auto = setting(
        "auto",
        "Number of steps that run in parallel, each in a worker process. auto: one per core; 1: in this process.",
        unit="steps",
        changes_result=False,
    )
    cluster: str = setting(
        "",
        "A Dask cluster that runs the steps instead of this machine (docs/scaling.md).",
        allowed="tcp://127.0.0.1:PORT, tls://HOST:PORT, or a scheduler file; empty for this machine",
        changes_result=False,
    )
    export: bool | Auto = setting(
        "auto",
        "Log a servable graph with every model. auto: no; python -m pipeline export adds it.",
        changes_result=False,
    )
    rerun: bool = setting(False, "Ignore cached results and run every step.", changes_result=False)
    explain: bool = setting(False, "Show for each step why it was or was not cached.", changes_result=False)
    folder: Text = setting("reports", "Output folder of the report.", allowed="a folder", changes_result=False)

    @field_validator("max_minutes")
    @classmethod
    def _only_sequential(cls, value: float | str, info: ValidationInfo) -> float | str:
        if value != "auto" and info.data.get("seeds") != "sequential":
            raise ValueError("needs seeds=sequential")
        return value

    @field_validator("cluster")
    @classmethod
    def _instead_of_workers(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("workers", "auto") != "auto":
            raise ValueError("does not go with workers: the cluster's workers say how many steps they run at a time")
        return value

    @field_validator("model")
    @classmethod
    def _with_an_existing_base(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("base") == "auto":
            raise ValueError("needs base: the base that this code built")
        return value

    @field_validator("base_classes", "class_split")
    @classmethod
    def _of_a_trained_base(cls, value: str, info: ValidationInfo) -> str:
        if value not in ("auto", "fixed") and info.data.get("base", "auto") != "auto":
            raise ValueError("an existing base has its own classes; remove it")
        return value

    @field_validator("base_classes", "target_classes")
    @classmethod
    def _valid_classes(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "auto" else check_classes(value, info)


class ReportParams(StageParams):
    """Write a plan's report again, or compare finished runs."""

    entry_point: ClassVar[str] = "report"

    runs: Annotated[str, Field(pattern=rf"^(auto|{RUN_ID}(,{RUN_ID})*)$")] = setting(
        "auto",
        "A plan run, or runs to compare. auto: newest plan run, else newest fine-tuned CNN, its base and scratch arm.",
        allowed="auto, or run ids separated by commas",
    )
    folder: Text = setting("reports", "Output folder.", allowed="a folder", changes_result=False)


class ResumeParams(StageParams):
    """Resume an interrupted run from its last checkpoint."""

    entry_point: ClassVar[str] = "resume"

    run_id: Annotated[str, Field(pattern=rf"^{RUN_ID}$")] = setting(
        "",
        "The interrupted run.",
        allowed="a run id (32 hexadecimal digits)",
        required=True,
        hint="The interrupted stage printed it; the MLflow UI shows it too.",
    )
    model: Annotated[str, Field(pattern=OWN_PATTERN)] = setting(
        "",
        "Your own code, if it built the run's network: it is never executed unless named again.",
        allowed="empty, or own:PATH.py:FUNCTION as it was given to the run",
        changes_result=False,
    )
    force: bool = setting(
        False,
        "Resume even if the run's process may still be alive on another machine; two processes corrupt the run.",
        changes_result=False,
    )
