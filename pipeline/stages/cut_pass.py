"""One pass over the union of the images of some label samples, for pooled features at several cuts of a base.

`cache_features` with `cuts` logs them for later `transfer` runs with `features=auto`; `probe` solves heads on them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from pipeline.data.examples import Examples
from pipeline.data.normalization import with_preprocessing
from pipeline.data.splits import LabelSample, Split, split_for_target
from pipeline.errors import Fault, UserInputError
from pipeline.networks.graph.naming import resolve_blocks
from pipeline.params import ProbeParams
from pipeline.params.data import format_class_names
from pipeline.params.target_stages import CutParams
from pipeline.runtime import Runtime, resolve_runtime
from pipeline.stages.base_selection import Target, base_tags, choose_target, train_first
from pipeline.stages.data_loading import load_data
from pipeline.tracking import names
from pipeline.tracking.base_model import Base
from pipeline.tracking.cache_key import CacheKey
from pipeline.tracking.cut_artifacts import ARTIFACT, check_cut_size, log_cut_features
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import open_store
from pipeline.training.cut_features import CutFeatures, compute_cut_features, unique_images
from pipeline.training.features import feature_operations

logger = logging.getLogger(__name__)

EVERY = "every"
PROBE_PER_CLASS = 100
VAL_FRACTION = 0.1  # for all labels; the default of the stages that train

P = TypeVar("P", bound=CutParams)


@dataclass(frozen=True)
class CutPass:
    """What a pass covers.

    Attributes:
        base: On the CPU.
        splits: One per label sample.
        cuts: Numbers of blocks, ascending.
        parts: The images, each once.
        runtime: Device and threads.
    """

    base: Base
    splits: tuple[Split, ...]
    cuts: tuple[int, ...]
    parts: tuple[Examples, ...]
    runtime: Runtime

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(map(len, self.parts))

    def compute(self, run: StageRun) -> CutFeatures:
        """Compute the features, and log them as an artifact of the run."""
        network = self.base.network.to(self.runtime.device)
        features = compute_cut_features(network, self.cuts, self.parts, path=run.folder / ARTIFACT)
        log_cut_features(run, features, network)
        logger.info(f"features: computed for {self.images} images at {len(self.cuts)} cuts in {features.seconds:.2f} s")
        return features


@contextmanager
def pass_run(
    params: CutParams, base: Base, key: CacheKey, *, name: str, note: str, runtime: Runtime,
    plan_context: PlanContext | None,
) -> Iterator[StageRun]:  # fmt: skip
    """Open the run of a pass through a base, with the base as its input; the runtime is in effect during the block."""
    tags = {**key.tags(), names.DATASET: params.dataset, names.CLASSES: params.classes, **base_tags(base)}
    opened = stage_run(params, name=name, note=f"{note} Base: {base.ancestry}.", tags=tags, plan_context=plan_context)
    with runtime.in_effect(), opened as run:
        run.log_base(base.model_uri)
        yield run


def prepare_pass(params: P, *, seeds: range, with_test: bool) -> tuple[P, CutPass | None]:
    """Resolve base, images and cuts; train a base if there is no compatible one (None in a dry run).

    Args:
        params: What the user requested.
        seeds: Of the label samples.
        with_test: Whether the pass covers the test images.

    Raises:
        UserInputError: Base, classes, labels or cuts are invalid.
    """
    client = open_store()
    target = choose_target(params, client, depth=1, needs_base=True)
    if target.base is None:
        base = train_first(params, target, client)
        if base is None:
            return params, None
        geometry = base.network.architecture.preprocessing.geometry
        target = Target(load_data(params, dataset=target.dataset.name, geometry=geometry), target.classes, base)
    base = target.base
    assert base is not None, "only a dry run has no base"
    logger.info(f"data: {target.dataset.note}")
    logger.info(f"{base.ancestry}, {base.why}")
    cuts = requested_cuts(params.cuts, base.network.architecture.block_names)
    splits = tuple(sampled(params, target, base, seed=seed) for seed in seeds)
    drawn: list[Examples] = []
    for split in splits:
        drawn += [split.train, split.validation, *([split.test] if with_test else [])]
    parts = tuple(unique_images(drawn))
    check_cut_size(base.network, cuts, sum(map(len, parts)))
    operations = feature_operations(base.network, max(cuts), parts[0])
    runtime = resolve_runtime(params.device, "float32", params.threads, operations=operations)
    resolved = {
        "base": base.model_uri,
        "cuts": ",".join(map(str, cuts)),
        "dataset": target.dataset.name,
        "classes": format_class_names(target.class_names, target.classes),
        "per_class": "all" if requested_labels(params) == "all" else min(splits[0].train.counts(len(target.classes))),
        "device": str(runtime.device),
        "threads": runtime.threads,
    }
    params = with_preprocessing(params, base.network.architecture.preprocessing).model_copy(update=resolved)
    return params, CutPass(base, splits, cuts, parts, runtime)


def requested_cuts(text: str, blocks: tuple[str, ...]) -> tuple[int, ...]:
    """Return the numbers of the blocks that `cuts` names; raise UserInputError if there is no such block."""
    if text == EVERY:
        return tuple(range(1, len(blocks) + 1))
    try:
        return resolve_blocks(text, blocks)
    except ValueError as error:
        problem = str(error) if str(error).endswith(("?", ".")) else f"{error}."
        raise UserInputError(Fault("cuts", text, problem, "cuts=every takes all of them.")) from None


def requested_labels(params: CutParams) -> int | Literal["all"]:
    """Return the labels per class: the parameter, else all of them, or 100 for a probe."""
    if params.per_class != "auto":
        return params.per_class
    return PROBE_PER_CLASS if isinstance(params, ProbeParams) else "all"


def sampled(params: CutParams, target: Target, base: Base, *, seed: int) -> Split:
    """Return the label sample of a seed, the same as in a stage that trains on it."""
    sample = LabelSample(
        per_class=requested_labels(params),
        val_per_class=params.val_per_class,
        val_fraction=VAL_FRACTION,
        seed=seed,
        clip=params.per_class == "auto",
    )
    return split_for_target(target.dataset, target.classes, sample, seen=base.seen_ids)
