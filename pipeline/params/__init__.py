"""Parameters of every entry point: one frozen, validated record each. Nothing here reads data or starts a run.

Read `base` (how a parameter is declared), then the groups: `data`, `training` (machine, logging), `optimizer`, `grid`,
`family` (the network), `target` (base, labels, reuse). `base_stages`, `target_stages`, `imports` and `plans` compose
the groups into one record per entry point; `entry_points` lists them. The command line, `MLproject` and
`docs/parameters.md` follow them.
"""

from pipeline.params.base import StageParams, parse_params, spell
from pipeline.params.base_stages import TrainBaseParams, TuneParams
from pipeline.params.data import (
    FOLDER_PREFIX,
    TORCHVISION_DATASETS,
    TORCHVISION_PREFIX,
    DataParams,
    format_classes,
    is_dataset,
    parse_classes,
)
from pipeline.params.entry_points import ENTRY_POINTS
from pipeline.params.family import Family, FamilyParams
from pipeline.params.imports import ImportBaseParams
from pipeline.params.plans import MainParams, ReportParams, ResumeParams
from pipeline.params.target import TargetParams
from pipeline.params.target_stages import (
    CacheFeaturesParams,
    FinetuneCnnParams,
    ProbeParams,
    ScratchCnnParams,
    TransferParams,
)

__all__ = [
    "ENTRY_POINTS",
    "FOLDER_PREFIX",
    "TORCHVISION_DATASETS",
    "TORCHVISION_PREFIX",
    "CacheFeaturesParams",
    "DataParams",
    "Family",
    "FamilyParams",
    "FinetuneCnnParams",
    "ImportBaseParams",
    "MainParams",
    "ProbeParams",
    "ReportParams",
    "ResumeParams",
    "ScratchCnnParams",
    "StageParams",
    "TargetParams",
    "TrainBaseParams",
    "TransferParams",
    "TuneParams",
    "format_classes",
    "is_dataset",
    "parse_classes",
    "parse_params",
    "spell",
]
