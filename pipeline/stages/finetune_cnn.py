"""`finetune_cnn`: fine-tune a base CNN in three parts: frozen, fine-tuned and randomly initialized blocks.

    python -m pipeline finetune_cnn --frozen 1 --intermediate 1

Expected on MNIST, digits 0-6 to 7-9: see docs/results.md.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.reuse import Reuse
from pipeline.params import FinetuneCnnParams
from pipeline.stages.target_setup import ReuseRule
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult


def finetune_cnn(
    params: FinetuneCnnParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Copy and freeze the first `frozen` blocks, fine-tune the next `intermediate`, train the rest from scratch."""
    rule = ReuseRule(params.frozen + params.intermediate, lambda blocks: three_parts(params, len(blocks)))
    return train_on_target(params, rule, plan_context=plan_context, resumed_run_id=resumed_run_id)


def three_parts(params: FinetuneCnnParams, depth: int) -> Reuse:
    """Return which blocks of a base with `depth` blocks are copied and frozen; the new network has as many blocks.

    Raises:
        UserInputError: The base has fewer blocks.
    """
    copied = params.frozen + params.intermediate
    if copied > depth:
        allowed = f"must be at most {depth} (the base has {depth} blocks)."
        raise UserInputError(Fault("frozen + intermediate", copied, allowed, "Copy fewer blocks."))
    return Reuse(copied, params.frozen, depth)
