"""Resolve parameters to what a fit needs: device and threads, settings of the optimizer, and the architecture."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from pydantic import ValidationError

from pipeline.data.normalization import resolve_preprocessing
from pipeline.data.splits import Split
from pipeline.errors import Fault, UserInputError
from pipeline.networks.convolutions import bfloat16_is_faster
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.macs import training_macs
from pipeline.params import StageParams, TrainBaseParams
from pipeline.params.entry_points import FitParams
from pipeline.params.grid import grid_settings
from pipeline.params.target import ReuseParams
from pipeline.runtime import Runtime, resolve_runtime
from pipeline.training.records import FitSettings

P = TypeVar("P", bound=StageParams)


def resolve_machine(params: P, split: Split, runtime: Runtime) -> P:
    """Return parameters with the resolved dataset, device, threads and precision."""
    resolved = {"dataset": split.dataset, "device": str(runtime.device), "threads": runtime.threads}
    if "dtype" in type(params).model_fields:
        resolved["dtype"] = str(runtime.train_dtype).removeprefix("torch.")
    return params.model_copy(update=resolved)


def resolve_training_runtime(params: FitParams, network: LayeredNetwork, batch_size: int, *, start: int = 0) -> Runtime:
    """Resolve device, precision and threads for training a network (with frozen blocks) on inputs at depth `start`."""
    return resolve_runtime(
        params.device,
        params.dtype,
        params.threads,
        operations=batch_size * training_macs(network, start),
        convolutional=bfloat16_is_faster(network),
    )


def settings_to_try(params: FitParams, runtime: Runtime) -> list[FitSettings]:
    """Return the settings that resolved parameters describe: several with `tune_on_validation`, else one."""
    return [fit_settings(params, runtime, **tried) for tried in grid_settings(params.tune_on_validation)]


def fit_settings(params: FitParams, runtime: Runtime, **tried: float) -> FitSettings:
    """Return the settings of a fit; `tried` are the fields that `tune_on_validation` varies."""
    shared = {field.name for field in dataclasses.fields(FitSettings)} & type(params).model_fields.keys()
    settings = FitSettings(**{**params.model_dump(include=shared), **tried}, train_dtype=runtime.train_dtype)
    if not isinstance(params, ReuseParams):
        return settings
    return dataclasses.replace(
        settings,
        copied_learning_rate_factor=params.unfrozen_learning_rate_factor,
        copied_weight_decay=None if params.unfrozen_weight_decay == "auto" else params.unfrozen_weight_decay,
    )


def requested_architecture(params: TrainBaseParams, split: Split) -> MLPArchitecture | CNNArchitecture:
    """Return the architecture that the parameters describe, for the images and classes of a split.

    Raises:
        UserInputError: It is too large, or too deep for the images.
    """
    preprocessing = resolve_preprocessing(params, split.geometry, split.train)
    try:
        return architecture_from_params(params, preprocessing, split.class_names)
    except ValueError as error:
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = first.removeprefix("Value error, ")
        name = (
            "hidden_layers, width"
            if params.model == "mlp"
            else "conv_channels, kernels, strides, padding, pool, dense_width"
        )
        raise UserInputError(Fault(name, None, f"invalid network: {reason}.", "Choose smaller values.")) from None
