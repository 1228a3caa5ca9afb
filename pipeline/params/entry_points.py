"""The record of each entry point by name, in the order in which `--help` lists them."""

from __future__ import annotations

from pipeline.params.base import StageParams
from pipeline.params.base_stages import TrainBaseParams, TuneParams
from pipeline.params.imports import ImportBaseParams
from pipeline.params.plans import MainParams, ReportParams, ResumeParams
from pipeline.params.target_stages import (
    CacheFeaturesParams,
    FinetuneCnnParams,
    ProbeParams,
    ScratchCnnParams,
    TargetStageParams,
    TransferParams,
)

FitParams = TrainBaseParams | TargetStageParams
ENTRY_POINTS: dict[str, type[StageParams]] = {
    record.entry_point: record
    for record in (
        MainParams,
        ImportBaseParams,
        TrainBaseParams,
        TuneParams,
        CacheFeaturesParams,
        ProbeParams,
        TransferParams,
        FinetuneCnnParams,
        ScratchCnnParams,
        ReportParams,
        ResumeParams,
    )
}
