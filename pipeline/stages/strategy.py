"""`strategy=lp_ft`: solve the head on frozen blocks, then fine-tune the network from there.

Source: Kumar et al. (2022), Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
arXiv 2202.10054.
"""

from __future__ import annotations

from pipeline.data.splits import Split
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import AnyArchitecture
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.reuse import Reuse
from pipeline.training.features import Features
from pipeline.training.head_fit import HeadFit, fit_head
from pipeline.training.inputs import model_inputs


def check_strategy(reuse: Reuse, architecture: AnyArchitecture) -> None:
    """Raise UserInputError if there is no new linear head on copied blocks only, or nothing to fine-tune after it."""
    if reuse.depth > reuse.copied:
        problem = f"the head is solved on copied blocks, but {reuse.depth - reuse.copied} are randomly initialized."
        remedy = "Copy all of them, or drop the others (upper=drop)."
    elif not reuse.trained:
        problem, remedy = "nothing is fine-tuned after the head: all blocks are frozen.", "Unfreeze at least one block."
    elif reuse.keeps_head or getattr(architecture, "head", "linear") != "linear":
        problem, remedy = "the head of the base is kept.", "Use strategy=finetune, or other classes."
    else:
        return
    raise UserInputError(Fault("strategy", "lp_ft", problem, remedy))


def solve_head_first(network: LayeredNetwork, split: Split, features: Features | None) -> HeadFit:
    """Solve the head with all blocks frozen, load it into the network, and restore which blocks are trained.

    Args:
        network: On its device, with its frozen blocks frozen.
        split: Training and validation images; they are not augmented here.
        features: Cached outputs of the frozen blocks.
    """
    start = features.depth if features else 0
    train, validation = (model_inputs(network, part, features) for part in (split.train, split.validation))
    trained = network.trained
    network.freeze(len(network.blocks))
    fit = fit_head(network, train, validation, start=start)
    network.train_only(trained)
    return fit
