"""`train_base` as a command against the same experiment as a plain script with MLflow logging.

    python -m benchmarks.stage [--rounds 7]

Same images, network, batch size, epochs and store; timed from process start to exit. Ours also writes checkpoints,
figures, digests and a model that later stages can reuse.
"""  # fmt: skip

from __future__ import annotations

import re
import statistics
import time

from benchmarks.alone import run_alone
from benchmarks.commands import run_id_of, stage_options, workplace
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import load_task
from benchmarks.rows import Options, Row

EPOCHS = 6
PEERS = {"plain script, tensors in memory": "memory", "plain script, DataLoader and transforms": "loader"}


def floor_seconds(options: Options, imports: float) -> float:
    """Return the import time of torch plus the floors of all epochs."""
    task = load_task(options)
    began = time.perf_counter()
    products_floor(task.network, len(task.train.labels), 128)()
    bytes_floor(task.network, task.train.values, 128)()
    return imports + EPOCHS * (time.perf_counter() - began)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    command = ("-m", "pipeline", "train_base", *stage_options(
        {"dataset": options.dataset, "epochs": EPOCHS, "patience": EPOCHS}
    ))  # fmt: skip
    ours: list[float] = []
    theirs: dict[str, list[float]] = {peer: [] for peer in PEERS}
    accuracies: dict[str, float] = {}
    with workplace() as place:
        place.python(*command)  # warm-up
        for _ in range(max(2, options.few // 2)):
            result = place.python(*command)
            ours.append(result.seconds)
            accuracies["ours"] = place.metric(run_id_of(result.output), "test/accuracy")
            for peer, source in PEERS.items():
                result = place.python("-m", "benchmarks.plain_script", options.dataset, str(EPOCHS), source)
                theirs[peer].append(result.seconds)
                accuracies[peer] = float(re.findall(r"test accuracy ([\d.]+)", result.output)[-1])
        imports = statistics.median(place.python("-c", "import torch").seconds for _ in range(3))
    floor = floor_seconds(options, imports)
    what = f"train_base command, {EPOCHS} epochs, end to end"
    return [
        Row(what, peer, ours, theirs[peer], target=1.0, floor=floor, accuracy=accuracies["ours"],
            peer_accuracy=accuracies[peer])
        for peer in PEERS
    ]  # fmt: skip


if __name__ == "__main__":
    run_alone(measure)
