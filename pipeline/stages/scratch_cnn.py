"""`scratch_cnn`: train a CNN of the base's architecture from scratch, as the reference for `finetune_cnn`.

python -m pipeline scratch_cnn --classes 7-9
"""  # fmt: skip

from __future__ import annotations

from pipeline.networks.reuse import Reuse
from pipeline.params import ScratchCnnParams
from pipeline.stages.target_setup import ReuseRule
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult


def scratch_cnn(
    params: ScratchCnnParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Train a CNN from random weights, with the same split, budget and early stopping as `finetune_cnn`."""
    rule = ReuseRule(0, lambda blocks: Reuse(0, 0, len(blocks)))
    return train_on_target(params, rule, plan_context=plan_context, resumed_run_id=resumed_run_id)
