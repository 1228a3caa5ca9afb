"""The same training in other libraries, on the same images and, where possible, from the same initial weights.

All use the same architecture, batch size, number of epochs and Adam with a learning rate of 0.001. Libraries that
accept tensors in memory get them, which is faster than typical code.
"""  # fmt: skip

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Arm, Task, accuracy_of, plain_layers
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.training.records import Labelled


class PixelImages(Dataset[Any]):
    """Single images, as in torchvision's MNIST: PIL, then the transforms."""

    def __init__(self, task: Task):
        torchvision_datasets()  # makes torchvision importable with any build of torch
        from torchvision import transforms

        self.pixels, self.labels = task.split.train.pixels, task.split.train.labels
        self.transform = transforms.Compose([transforms.ToTensor()])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return a transformed image and its label."""
        from PIL import Image

        image = Image.fromarray(self.pixels[index, 0].numpy(), mode="L")
        return self.transform(image), int(self.labels[index])


class Batches:
    """Shuffled batches of tensors in memory, by indexing."""

    def __init__(self, data: Labelled, batch_size: int):
        self.data, self.batch_size = data, batch_size

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.data.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield every example once."""
        for indices in torch.randperm(len(self.data.labels)).split(self.batch_size):
            yield self.data.values[indices], self.data.labels[indices]


def adam(layers: torch.nn.Module) -> torch.optim.Adam:
    """Return PyTorch's default Adam with the base network's settings."""
    return torch.optim.Adam(layers.parameters(), lr=1e-3, weight_decay=1e-4)


def loader_arm(task: Task, batch_size: int) -> Arm:
    """Return the tutorial loop: a DataLoader with torchvision's transforms."""
    layers = plain_layers(task.network)
    optimizer = adam(layers)
    loader = DataLoader(PixelImages(task), batch_size=batch_size, shuffle=True)

    def epoch() -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(layers(images), labels).backward()
            optimizer.step()

    return Arm(epoch, lambda: accuracy_of(layers, task.test))


def lightning_arm(task: Task, batch_size: int) -> Arm:
    """Return Lightning on tensors in memory, without loggers, progress bars and checkpoints; timed by its hooks."""
    torchvision_datasets()
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = plain_layers(task.network)
            self.seconds = 0.0
            self.make_optimizer: Callable[[], torch.optim.Optimizer] = lambda: adam(self.layers)

        def training_step(self, batch: Any) -> torch.Tensor:
            images, labels = batch
            return cross_entropy(self.layers(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.make_optimizer()

        def on_train_epoch_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds = time.perf_counter() - self.began

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = Batches(task.train, batch_size)

    def epoch() -> float:
        trainer.fit_loop.max_epochs += 1
        optimizers = trainer.optimizers  # `fit` creates new optimizers: keep Adam's state
        state = optimizers[0].state_dict() if optimizers else None
        module.make_optimizer = lambda: resumed(module.layers, state)
        trainer.fit(module, batches)
        return float(module.seconds)

    def resumed(layers: torch.nn.Module, state: dict[str, Any] | None) -> torch.optim.Optimizer:
        optimizer = adam(layers)
        if state:
            optimizer.load_state_dict(state)
        return optimizer

    return Arm(epoch, lambda: accuracy_of(module.layers.eval(), task.test))


def skorch_arm(task: Task, batch_size: int) -> Arm:
    """Return skorch's classifier, one `partial_fit` per epoch, without validation and output."""
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        plain_layers(task.network),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-4,
        lr=1e-3,
        batch_size=batch_size,
        max_epochs=1,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    images, labels = task.train.values.numpy(), task.train.labels.numpy()

    def score() -> float:
        return accuracy_of(net.module_.eval(), task.test)

    return Arm(lambda: net.partial_fit(images, labels), score)


def keras_arm(task: Task, batch_size: int) -> Arm:
    """Return Keras 3 with the torch backend, one `fit` per epoch; without L2, which would slow it down."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    assert task.params.hidden_layers and task.params.width
    hidden = [keras.layers.Dense(task.params.width, activation="relu") for _ in range(task.params.hidden_layers)]
    inputs = [keras.layers.Input(task.split.image_shape), keras.layers.Flatten()]
    model = keras.Sequential([*inputs, *hidden, keras.layers.Dense(len(task.split.classes))])
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = task.train.values.numpy(), task.train.labels.numpy()

    def score() -> float:
        logits = model.predict(task.test.values.numpy(), batch_size=4096, verbose=0)
        return float((logits.argmax(1) == task.test.labels.numpy()).mean())

    return Arm(lambda: model.fit(images, labels, batch_size=batch_size, verbose=0, shuffle=True), score)


def sklearn_arm(task: Task, batch_size: int) -> Arm:
    """Return scikit-learn's MLPClassifier, one `partial_fit` per epoch."""
    from sklearn.neural_network import MLPClassifier

    assert task.params.hidden_layers and task.params.width
    net = MLPClassifier(
        (task.params.width,) * task.params.hidden_layers, alpha=1e-4, batch_size=batch_size, random_state=0
    )
    images, labels = task.train.values.flatten(1).numpy(), task.train.labels.numpy()
    tests = task.test.values.flatten(1).numpy()
    classes = sorted(set(labels.tolist()))
    return Arm(
        lambda: net.partial_fit(images, labels, classes=classes),
        lambda: float(net.score(tests, task.test.labels.numpy())),
    )


PEERS = {
    "DataLoader, torchvision transforms": loader_arm,
    "Lightning, in memory": lightning_arm,
    "skorch": skorch_arm,
    "Keras 3, torch": keras_arm,
}
