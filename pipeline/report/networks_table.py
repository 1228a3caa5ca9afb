"""Architecture, initialization, optimizer and regularization of each arm, by name."""

from __future__ import annotations

from pipeline.report.elements import NO_VALUE
from pipeline.report.questions.quantities import metric
from pipeline.report.records import ReportedArm
from pipeline.tracking import names

COLUMNS = ("network", "parameters", "initialization", "optimizer", "regularization")
INITIALIZATION = {
    "mlp": "Xavier uniform, zero bias",
    "cnn": "convolutions Kaiming uniform, linear layers Xavier uniform, zero bias",
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}


def network_row(arm: ReportedArm) -> tuple[str, ...]:
    """Return an arm's cells for `COLUMNS`."""
    counts = sorted(set(metric(arm, names.PARAMETERS_COUNT).values()))
    return (
        _network(arm),
        " / ".join(f"{count:,.0f}" for count in counts) or NO_VALUE,
        _initialization(arm),
        _optimizer(arm),
        _regularization(arm),
    )


def _network(arm: ReportedArm) -> str:
    match arm.parameter("model"):
        case "mlp":
            layers, width = arm.parameter("hidden_layers"), arm.parameter("width")
            norm = "batch norm, " if arm.parameter("batch_norm").lower() == "true" else ""
            return f"MLP: {layers} hidden layers of {width}, {norm}ReLU, softmax output"
        case "cnn":
            sizes = ", ".join(
                f"{text} {arm.parameter(name)}" for name, text in
                (("conv_channels", "channels"), ("kernels", "kernels"), ("strides", "strides"), ("pool", "pooling"))
                if arm.parameter(name)
            )  # fmt: skip
            return f"CNN: convolutions ({sizes}), dense {arm.parameter('dense_width')}, ReLU, softmax output"
        case "":
            return "as its base" if any(arm.base_run_ids) else NO_VALUE
        case other:
            return other


def _initialization(arm: ReportedArm) -> str:
    if arm.parameter("model") in INITIALIZATION:
        return INITIALIZATION[arm.parameter("model")]
    if arm.entry_point == "scratch_cnn" or arm.parameter("reuse_layers") == "0":
        return "random, as its base's"
    if not any(arm.base_run_ids):
        return NO_VALUE
    copied = arm.parameter("reuse_layers")
    return f"{copied + ' ' if copied else ''}blocks copied from the base, the rest random"


def _optimizer(arm: ReportedArm) -> str:
    if arm.parameter("head_solver") == "convex":
        return "head solved (L-BFGS)"
    rate = arm.parameter("learning_rate")
    if not rate:
        return NO_VALUE
    kind = OPTIMIZERS.get(arm.parameter("optimizer") or "adam", arm.parameter("optimizer"))
    return f"{kind}, learning rate {rate}, batch size {arm.parameter('batch_size')}"


def _regularization(arm: ReportedArm) -> str:
    dropout, decay, average = (arm.parameter(name) for name in ("dropout", "weight_decay", "weight_averaging"))
    if arm.parameter("head_solver") == "convex":
        return "L2 penalty chosen on validation"
    penalty = "decoupled weight decay" if arm.parameter("optimizer") == "adamw" else "L2 penalty"
    parts = [
        f"{penalty} {decay}" if decay not in ("", "0", "0.0") else "",
        f"dropout {dropout}" if dropout not in ("", "0", "0.0") else "",
        f"EMA {average}" if average not in ("", "0", "0.0") else "",
        f"early stopping (patience {patience})" if (patience := arm.parameter("patience")) else "",
    ]
    return ", ".join(filter(None, parts)) or NO_VALUE
