"""`import_base`: register a pretrained network from a library, or of your own code, as a base; nothing is trained.

    python -m pipeline import_base --model torchvision:resnet18
    python -m pipeline import_base --model own:resnet.py:resnet20 --weights resnet20.th --dataset folder:cifar10

docs/own-network.md has the expected results.
"""  # fmt: skip

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

from pipeline.console import echo
from pipeline.data.normalization import with_preprocessing
from pipeline.data.splits import Split
from pipeline.networks.build import architecture_digest, weights_digest
from pipeline.networks.graph.network import GraphNetwork
from pipeline.params import ImportBaseParams
from pipeline.runtime import Runtime, resolve_runtime
from pipeline.stages.base_network import log_own_code
from pipeline.stages.class_table import log_class_tables, recall_metrics
from pipeline.stages.imported_network import ImportedNetwork, load_imported
from pipeline.stages.next_command import after_import
from pipeline.tracking import names
from pipeline.tracking.cache_key import CacheKey, cache_key
from pipeline.tracking.graph_export import ModelFacts
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.model_export import images_of_imported, log_model
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.evaluate import evaluate
from pipeline.training.features import feature_operations
from pipeline.training.inputs import model_inputs

logger = logging.getLogger(__name__)


def import_base(params: ImportBaseParams) -> StageResult:
    """Register a network as one MLflow run; see `pipeline.stages` for result and errors."""
    imported = load_imported(params)
    runtime = import_runtime(params, imported)
    params = resolve_import(params, imported, runtime)
    for line in described(imported):
        logger.info(line)
    if params.dry_run:
        echo("dry run: nothing is registered")
        echo(json.dumps(params.logged(), indent=2))
        return StageResult("", "", {})
    tags = {names.DATASET: params.dataset, names.CLASSES: params.classes}
    opened = stage_run(
        params,
        name=f"import {params.model}, {Path(params.weights).name}",
        note=f"{params.model}, not trained here: {'; '.join(described(imported))}.",
        tags={**tags, **import_key(params, imported, runtime).tags()},
    )
    with runtime.in_effect(), opened as run:
        log_provenance(run, params, imported)
        if imported.split is not None:
            log_accuracy(run, imported.network.to(runtime.device), imported.split)
        return register(run, params, imported.network)


def import_runtime(params: ImportBaseParams, imported: ImportedNetwork) -> Runtime:
    """Resolve device and threads; only an evaluation costs time."""
    network, split = imported.network, imported.split
    operations = 0 if split is None else feature_operations(network, len(network.blocks), split.test)
    return resolve_runtime(params.device, "float32", params.threads, operations=operations)


def resolve_import(params: ImportBaseParams, imported: ImportedNetwork, runtime: Runtime) -> ImportBaseParams:
    """Return the parameters as they are logged."""
    resolved = {"device": str(runtime.device), "threads": runtime.threads, "classes": imported.classes_text}
    return with_preprocessing(params, imported.network.architecture.preprocessing).model_copy(update=resolved)


def described(imported: ImportedNetwork) -> list[str]:
    """Return what was loaded, and what cannot be checked, as lines."""
    loaded = imported.loaded
    lines = ["weights: random" if loaded.report is None else f"weights: {loaded.report}"]
    lines += [f"blocks: {', '.join(loaded.network.architecture.block_names)}"]
    if loaded.unused:
        lines.append(f"not used and dropped: {', '.join(loaded.unused)}")
    if loaded.report is not None:
        lines.append("its training images are unknown (the set of seen images is empty): leakage cannot be checked")
    return lines


def import_key(params: ImportBaseParams, imported: ImportedNetwork, runtime: Runtime) -> CacheKey:
    """Return the cache key: digests of the weights, the architecture with the user's code in it, and the images."""
    network = imported.network
    inputs = {
        "weights": weights_digest(network.state_dict()),
        "architecture": architecture_digest(network.architecture),
        "source": imported.loaded.source.source_digest,
        "data": imported.split.test.digest if imported.split is not None else "",
        "license": hashlib.sha256(imported.license.encode()).hexdigest()[:32] if imported.license else "",
    }
    return cache_key(params, inputs, runtime.description)


def log_provenance(run: StageRun, params: ImportBaseParams, imported: ImportedNetwork) -> None:
    """Log where network and weights come from, which tensors were loaded, the user's code, and the license."""
    source, report = imported.loaded.source, imported.loaded.report
    origin = {
        "model": params.model,
        "library_version": source.library_version,
        "own_code_sha256": source.source_digest,
        "weights": report.source if report is not None else "random",
        "weights_file_sha256": report.digest if report is not None else "",
        "license": imported.license,
        "unused_parameters": list(imported.loaded.unused),
    }
    loading = dataclasses.asdict(report) if report is not None else {}
    for name, content in ((names.PROVENANCE, origin), (names.LOAD_REPORT, loading)):
        path = run.folder / name
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        run.log_file(path)
    log_own_code(run, source)


def log_accuracy(run: StageRun, network: GraphNetwork, split: Split) -> None:
    """Evaluate the network on labelled images, and log and print its accuracy."""
    run.log_split(split)
    evaluation = evaluate(network, model_inputs(network, split.test), probabilities=False)
    log_class_tables(run, split, evaluation)
    metrics = evaluation.metrics("test")
    if not all(split.test.counts(len(split.classes))):  # precision and the like are means over all classes
        metrics = {name: metrics[name] for name in ("test/loss", names.TEST_ACCURACY)}
    run.log_final({**metrics, **recall_metrics(split, evaluation.confusion_KK)})
    echo(f"test accuracy {100 * evaluation.accuracy:.2f} % on {len(split.test)} test images of {split.dataset}")


def register(run: StageRun, params: ImportBaseParams, network: GraphNetwork) -> StageResult:
    """Log the model, and print its URI and a command that uses it."""
    run.log_final({names.TOTAL_SECONDS: run.elapsed_seconds()})
    facts = ModelFacts(
        stage=params.entry_point,
        dataset=params.dataset,
        classes=params.classes,
        class_names=network.architecture.classes,
        val_accuracy=0.0,  # not validated: a model that was trained here takes the alias `best`
    )
    log_model(run, network, facts=facts, images=images_of_imported(network), register_as=params.register_as)
    model_uri = run.wait_for_model()
    echo(f"run {run.run_id}, model {model_uri}")
    echo(f"next: python -m pipeline {after_import(params, model_uri)}")
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))
