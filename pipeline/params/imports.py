"""The record of `import_base`: a network that was trained elsewhere, and what is known about it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import setting
from pipeline.params.data import NO_DATASET, DataParams, check_classes, is_dataset, suggest_dataset
from pipeline.params.family import GRAPH_FORMS, GRAPH_MODEL
from pipeline.params.training import MachineParams, RegistrationParams, SeedParams


class ImportBaseParams(RegistrationParams, SeedParams, MachineParams, DataParams):
    """Register a pretrained network of a library or of your own code as a base; nothing is trained."""

    entry_point: ClassVar[str] = "import_base"

    model: str = setting(
        "",
        "Network to import. own:PATH.py:FUNCTION runs that file.",
        allowed=GRAPH_FORMS,
        hint="For example torchvision:resnet18.",
        required=True,
    )
    weights: Annotated[str, Field(min_length=1)] = setting(
        "default",
        "Weights. default: the library's published ones, downloaded; none: random.",
        allowed="default, none, or a .safetensors, .pt, .pth or .th file",
    )
    blocks: Annotated[str, Field(pattern=r"^(auto|[\w.]+(,[\w.]+)*)$")] = setting(
        "auto", "Modules to use as blocks. auto: found in the network's graph.", allowed="auto, or names of modules"
    )
    classes: str = setting(
        "auto",
        "Names of the outputs, in order. auto: as published, else the dataset's, else numbers.",
        allowed="auto, or one name per output, such as 0-9 or ants,bees",
    )
    license: str = setting(
        "",
        "License of the weights, stored with their provenance.",
        allowed="empty, or a text file",
        changes_result=False,
    )
    dataset: str = setting(
        NO_DATASET,
        "Labelled images of the network's own classes: its accuracy on their test split is logged.",
        allowed="none, or a dataset as in train_base, such as folder:PATH",
    )

    @field_validator("model")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if not GRAPH_MODEL.fullmatch(value):
            raise ValueError
        return value

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        if value == NO_DATASET or is_dataset(value):
            return value
        raise ValueError(suggest_dataset(value))

    @field_validator("classes")
    @classmethod
    def _valid_classes(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "auto" else check_classes(value, info)
