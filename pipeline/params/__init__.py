"""The parameters of every entry point: one frozen record each, checked when it is made.

`base.py` has what every record has, `training.py` what stages that train share, `family.py` and `target.py` what
depends on the network and on the labels, `stages.py` and `studies.py` one record an entry
point, `parse.py` the way from raw text to a record. The command line, `MLproject` and `docs/parameters.md` are
read from here. Nothing here reads data or starts a run.
"""

from pipeline.params.base import (
    DATASET_CLASS_COUNTS,
    FOLDER_PREFIX,
    DataChoice,
    StageParams,
    format_classes,
    is_dataset,
    parse_classes,
    spell,
)
from pipeline.params.family import Family, FamilyParams
from pipeline.params.parse import parse_params
from pipeline.params.stages import (
    ENTRY_POINTS,
    CacheFeaturesParams,
    FinetuneCnnParams,
    ScratchCnnParams,
    TrainBaseParams,
    TransferParams,
    TuneParams,
)
from pipeline.params.studies import MainParams, ReportParams, ResumeParams
from pipeline.params.target import TargetChoice, TargetParams
from pipeline.params.training import MachineParams, TrainingParams

__all__ = [
    "DATASET_CLASS_COUNTS",
    "ENTRY_POINTS",
    "FOLDER_PREFIX",
    "CacheFeaturesParams",
    "DataChoice",
    "Family",
    "FamilyParams",
    "FinetuneCnnParams",
    "MachineParams",
    "MainParams",
    "ReportParams",
    "ResumeParams",
    "ScratchCnnParams",
    "StageParams",
    "TargetChoice",
    "TargetParams",
    "TrainBaseParams",
    "TrainingParams",
    "TransferParams",
    "TuneParams",
    "format_classes",
    "is_dataset",
    "parse_classes",
    "parse_params",
    "spell",
]
