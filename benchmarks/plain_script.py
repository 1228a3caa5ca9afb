"""The base experiment as a plain PyTorch script with MLflow logging.

    python -m benchmarks.plain_script DATASET EPOCHS (memory | loader)

Loads the images, trains the same network with PyTorch's default Adam, logs parameters, five metrics per epoch and
the model with MLflow, and prints the test accuracy. No checkpoints, EMA, figures or data digests.
"""  # fmt: skip

from __future__ import annotations

import sys

import mlflow
import mlflow.pytorch
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.harness import load_task, plain_layers
from benchmarks.peers import Batches, PixelImages, adam
from benchmarks.rows import Options
from pipeline.training.records import Labelled

BATCH_SIZE = 128


def score(layers: torch.nn.Module, data: Labelled) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    layers.eval()
    with torch.no_grad():
        logits = layers(data.values)
    layers.train()
    return float(cross_entropy(logits, data.labels)), float((logits.argmax(1) == data.labels).double().mean())


def main() -> None:
    """Train, log to MLflow, and print the test accuracy."""
    dataset, epochs, source = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    task = load_task(Options(dataset=dataset))
    validation = Labelled(task.network.scale(task.split.validation.pixels), task.split.validation.labels)
    loader = DataLoader(PixelImages(task), batch_size=BATCH_SIZE, shuffle=True)
    batches = Batches(task.train, BATCH_SIZE) if source == "memory" else loader
    layers = plain_layers(task.network)
    optimizer = adam(layers)
    with mlflow.start_run():
        mlflow.log_params({"epochs": epochs, "batch_size": BATCH_SIZE, "learning_rate": 1e-3, "weight_decay": 1e-4})
        for epoch in range(1, epochs + 1):
            loss_sum, right = 0.0, 0
            for images, labels in batches:
                optimizer.zero_grad()
                logits = layers(images)
                loss = cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                loss_sum += loss.item() * len(labels)
                right += int((logits.argmax(1) == labels).sum())
            val_loss, val_accuracy = score(layers, validation)
            mlflow.log_metric("train_loss", loss_sum / len(task.train.labels), step=epoch)
            mlflow.log_metric("train_accuracy", right / len(task.train.labels), step=epoch)
            mlflow.log_metric("val_loss", val_loss, step=epoch)
            mlflow.log_metric("val_accuracy", val_accuracy, step=epoch)
            mlflow.log_metric("epoch", epoch, step=epoch)
        test_loss, test_accuracy = score(layers, task.test)
        mlflow.log_metrics({"test_loss": test_loss, "test_accuracy": test_accuracy})
        mlflow.pytorch.log_model(layers.eval(), name="model", input_example=task.test.values[:2].numpy())
    print(f"test accuracy {test_accuracy:.6f}")


if __name__ == "__main__":
    main()
