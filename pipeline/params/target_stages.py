"""Records of the entry points that reuse a base, each composed of the groups it needs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import setting
from pipeline.params.data import DataParams
from pipeline.params.family import Family
from pipeline.params.target import LabelParams, ReuseParams, TargetBudgetParams, TargetParams
from pipeline.params.training import MachineParams, SeedParams, TrainingParams

BlockName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.:-]*$", max_length=300)]
SOLVED_HEADS = "all blocks below a solved head (head_solver=convex) are frozen"


class CutParams(LabelParams, TargetParams, SeedParams, MachineParams, DataParams):
    """A pass of labelled images through a base, for features at several cuts."""

    any_family: ClassVar[bool] = True

    cuts: Annotated[str, Field(pattern=r"^([\w.:-]+( *, *[\w.:-]+)*)?$")] = setting(
        "",
        "Pooled features after these blocks, such as 1,3 or layer2, or every; of validation and test images too.",
        allowed="empty, every, or numbers or names of blocks, separated by commas",
    )


class CacheFeaturesParams(CutParams):
    """Compute a base's frozen blocks once for all target images, and log their outputs."""

    entry_point: ClassVar[str] = "cache_features"

    depth: Annotated[int, Field(ge=1)] | Literal["all"] = setting(
        "all",
        "Number of blocks to run the images through: reuse_layers - unfreeze of transfer, or frozen of finetune_cnn.",
        allowed="all, or an integer in [1, number of blocks of the base]",
        unit="blocks",
    )
    draws: Annotated[int, Field(ge=1, le=1000)] = setting(
        1, "With cuts: number of label samples to cover (seeds from `seed` on).", unit="seeds"
    )

    @field_validator("depth")
    @classmethod
    def _one_cut_or_several(cls, value: int | str, info: ValidationInfo) -> int | str:
        if value != "all" and info.data.get("cuts"):
            raise ValueError("cuts chooses blocks too; remove one of them")
        return value


class ProbeParams(CutParams):
    """Rank the cuts of a base: heads solved on frozen features at every cut, by cross-validation."""

    entry_point: ClassVar[str] = "probe"

    cuts: Annotated[str, Field(pattern=r"^[\w.:-]+( *, *[\w.:-]+)*$")] = setting(
        "every",
        "Cuts to probe: the blocks below them, such as 1,3 or layer2.",
        allowed="every, or numbers or names of blocks, separated by commas",
    )
    folds: Annotated[int, Field(ge=3, le=100)] = setting(
        5, "Cross-validation folds; lowered to the number of labels per class.", unit="folds"
    )


def check_all_frozen(fine_tuned: bool, info: ValidationInfo) -> None:
    """Raise ValueError if blocks below a solved head are fine-tuned."""
    if fine_tuned and info.data.get("head_solver") == "convex":
        raise ValueError(f"{SOLVED_HEADS}; use {info.field_name}=0, or head_solver=sgd")


class TransferParams(
    ReuseParams, TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Reuse the blocks of a base for new classes with few labels."""

    entry_point: ClassVar[str] = "transfer"

    reuse_layers: Annotated[int, Field(ge=0)] | Literal["all"] | BlockName = setting(
        "all",
        "Blocks (hidden layers of an MLP) to copy from the base, up to a number or name; 0 trains from scratch.",
        allowed="all, an integer in [0, number of blocks of the base], or the name of a block",
        unit="layers",
    )
    unfreeze: Annotated[int, Field(ge=0)] | BlockName = setting(
        0,
        "Copied blocks to fine-tune, from the top: how many, or down to which.",
        allowed="an integer in [0, reuse_layers], or the name of a block",
        unit="layers",
    )
    upper: Literal["auto", "drop", "fresh"] = setting(
        "auto", "Layers above the copied ones: drop, or initialize randomly (default: drop; fresh if reuse_layers=0)."
    )

    train_blocks: Annotated[str, Field(pattern=r"^(auto|[\w.:-]+( *, *[\w.:-]+)*)$")] = setting(
        "auto",
        "Train exactly these copied blocks and the head, such as 3,4 or layer4 (default: the top `unfreeze`).",
        allowed="auto, or numbers or names of copied blocks, separated by commas",
    )

    @field_validator("train_blocks")
    @classmethod
    def _among_copied_blocks(cls, value: str, info: ValidationInfo) -> str:
        if value == "auto":
            return value
        if info.data.get("unfreeze"):
            raise ValueError(f"unfreeze={info.data['unfreeze']} chooses blocks too; remove one of them")
        if info.data.get("reuse_layers") == 0:
            raise ValueError("with reuse_layers=0 no block is copied")
        if info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; use head_solver=sgd")
        return value.replace(" ", "")

    @field_validator("reuse_layers")
    @classmethod
    def _at_least_one_frozen(cls, value: int | str, info: ValidationInfo) -> int | str:
        if value == 0 and info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; copy at least one layer, or use head_solver=sgd")
        return value

    @field_validator("unfreeze")
    @classmethod
    def _at_most_reused(cls, value: int | str, info: ValidationInfo) -> int | str:
        reused = info.data.get("reuse_layers")
        if isinstance(reused, int) and isinstance(value, int) and value > reused:
            raise ValueError(f"only {reused} layers are reused")
        check_all_frozen(value != 0, info)
        return value

    @field_validator("upper")
    @classmethod
    def _at_least_one_layer(cls, value: str, info: ValidationInfo) -> str:
        if value == "drop" and info.data.get("reuse_layers") == 0:
            raise ValueError("with reuse_layers=0 and upper=drop no hidden layer is left; use upper=fresh")
        if value == "fresh" and info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; use upper=drop, or head_solver=sgd")
        return value


class FinetuneCnnParams(
    ReuseParams, TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Fine-tune a base CNN in three parts: frozen, fine-tuned and randomly initialized blocks."""

    entry_point: ClassVar[str] = "finetune_cnn"
    family: ClassVar[Family] = "cnn"

    frozen: Annotated[int, Field(ge=0)] = setting(1, "Blocks to copy and freeze, from the input.", unit="blocks")
    intermediate: Annotated[int, Field(ge=0)] = setting(
        1, "Blocks above the frozen ones to copy and fine-tune.", unit="blocks"
    )

    @field_validator("intermediate")
    @classmethod
    def _none_for_a_solved_head(cls, value: int, info: ValidationInfo) -> int:
        check_all_frozen(value > 0, info)
        return value


class ScratchCnnParams(
    TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Train a CNN of the base's architecture from scratch on the target classes."""

    entry_point: ClassVar[str] = "scratch_cnn"
    family: ClassVar[Family] = "cnn"


TargetStageParams = TransferParams | FinetuneCnnParams | ScratchCnnParams
AnyTargetParams = TargetStageParams | CutParams
