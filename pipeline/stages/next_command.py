"""The command that a stage suggests next; it works as printed."""

from __future__ import annotations

import shlex

from pipeline.data.classes import default_target_classes
from pipeline.data.splits import Split
from pipeline.networks.build import AnyArchitecture
from pipeline.params import ImportBaseParams
from pipeline.params.data import NO_DATASET, format_class_names
from pipeline.params.entry_points import FitParams
from pipeline.params.family import OWN_PREFIX
from pipeline.params.target_stages import CacheFeaturesParams, ProbeParams, TransferParams
from pipeline.stages.data_loading import data_options
from pipeline.tracking.base_model import Base


def after_training(architecture: AnyArchitecture, split: Split, params: FitParams, *, model_uri: str) -> str:
    """Return a command that uses the model of a training stage."""
    if params.entry_point in ("finetune_cnn", "scratch_cnn"):
        return "report"
    stage = "finetune_cnn" if architecture.family == "cnn" else "transfer"
    target = default_target_classes(
        "mlp" if architecture.family == "mlp" else "cnn", split.all_class_names, split.class_names
    )
    classes = ""
    if isinstance(params, TransferParams):
        target, classes = split.classes, f" --classes {shlex.quote(split.classes_text)}"
    cut = continue_options(architecture) if target == split.classes else ""
    return f"{stage} --base {model_uri}{classes}{cut}{own_code_option(params.model)}{data_options(params)}"


def after_import(params: ImportBaseParams, model_uri: str) -> str:
    """Return a command that reuses all blocks of an imported network."""
    data = " --dataset folder:PATH" if params.dataset == NO_DATASET else ""
    return f"transfer --base {model_uri}{data}{own_code_option(params.model)}{data_options(params)}"


def own_code_option(model: str) -> str:
    """Return the option that names the user's own code again, with a leading space; empty for other networks."""
    return f" --model {shlex.quote(model)}" if model.startswith(OWN_PREFIX) else ""


def continue_options(architecture: AnyArchitecture) -> str:
    """Return the options that copy all blocks of a base, to continue its training on its own classes."""
    if architecture.family != "cnn":
        return f" --unfreeze {min(2, architecture.depth)}"
    return f" --frozen 1 --intermediate {architecture.depth - 1}"


def after_probe(base: Base, params: ProbeParams, cut: int) -> str:
    """Return a command that trains a head on the frozen blocks below a cut."""
    architecture = base.network.architecture
    if architecture.family == "cnn":
        words = ["finetune_cnn", f"--frozen {cut} --intermediate {architecture.depth - cut}"]
    else:
        words = ["transfer", f"--reuse_layers {cut} --features auto --head_solver convex"]
    words.append(f"--base {base.model_uri}")
    if params.dataset != base.dataset:
        words.append(f"--dataset {shlex.quote(params.dataset)}")
    words.append(f"--classes {shlex.quote(params.classes)} --per_class {params.per_class}")
    return " ".join(words) + own_code_option(params.model) + data_options(params)


def after_features(base: Base, params: CacheFeaturesParams, features: str, *, depth: int) -> str:
    """Return a command that trains on cached features, after block `depth`."""
    architecture = base.network.architecture
    if params.cuts and architecture.family != "cnn":
        stage, cut = "transfer", f"--reuse_layers {depth}"  # pooled features serve a head alone
    elif architecture.family != "cnn":
        stage, cut = "transfer", f"--unfreeze {architecture.depth - depth}"
    else:
        continues = params.dataset == base.dataset and params.classes == format_class_names(base.classes)
        above = architecture.depth - depth
        stage = "finetune_cnn"
        cut = f"--frozen {depth} --intermediate {above if continues else min(1, above)}"
    data = f"--dataset {shlex.quote(params.dataset)}" if params.dataset != base.dataset else ""
    words = (stage, f"--base {base.model_uri}", f"--classes {shlex.quote(params.classes)}", cut, data)
    code = own_code_option(params.model)
    return f"{' '.join(filter(None, words))}{code}{data_options(params)} --features {features}"
