"""Synthetic plan runs: arms with given numbers, and one with the shape and size of the reference studies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from pipeline.plan.outcome import PlanRecord
from pipeline.plan.records import Question
from pipeline.report.records import Links, Member, PlanRunFacts, ReportedArm
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun, LoggedData

HOST = "bench"


def member(
    arm: str,
    seed: int,
    accuracy: float,
    *,
    precision: float | None = None,
    train: float = 1.0,
    validation: float | None = None,
    seconds: float = 2.0,
    epochs: int = 4,
    losses: Sequence[float] | None = None,
    accuracies: Sequence[float] | None = None,
    params: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
    tags: dict[str, str] | None = None,
    stage: str = "transfer",
    host: str = HOST,
    reused: bool = False,
) -> Member:
    """Return a finished run as if read from a store; all epochs take the same time."""
    losses = losses or [0.5 / epoch for epoch in range(1, epochs + 1)]
    accuracies = accuracies or [accuracy] * epochs
    reached: dict[str, float] = {}
    for threshold in names.VAL_THRESHOLDS:
        at = next((number for number, value in enumerate(accuracies, 1) if value >= threshold), None)
        if at is not None:
            reached |= {f"epochs/to_val_{threshold}": at, f"time/to_val_{threshold}": at * seconds / epochs}
    final = {
        names.TEST_ACCURACY: accuracy,
        names.TEST_PRECISION: accuracy if precision is None else precision,
        names.TRAIN_FINAL_ACCURACY: train,
        names.VAL_FINAL_ACCURACY: accuracy if validation is None else validation,
        names.BEST_EPOCH: epochs,
        names.EPOCHS_RUN: epochs,
        names.FIT_SECONDS: seconds,
        names.TOTAL_SECONDS: seconds,
        names.EPOCH_OPERATIONS: 1e9,
        names.TRAINABLE_SHARE: 1.0,
        **reached,
        **(metrics or {}),
    }
    curves = {
        names.TRAIN_LOSS: [0.8 * loss for loss in losses],
        names.TRAIN_ACCURACY: list(accuracies),
        names.VAL_LOSS: list(losses),
        names.VAL_ACCURACY: list(accuracies),
        names.EPOCH_SECONDS: [seconds / epochs] * epochs,
    }
    about = {
        names.DATASET: "mnist",
        names.CLASSES: "5-9",
        names.CODE_DIGEST: "c0de" * 8,
        "host": host,
        names.HARDWARE: "EPYC, 2 cores",
    }
    about |= {names.GIT_COMMIT: "c0ffee", names.MODEL_URI: f"models:/m-{run_id_of(arm, seed)}", **(tags or {})}
    budget = {"epochs": "400", "patience": "100", "batch_size": "20", "learning_rate": "0.001", "weight_decay": "0.005"}
    machine = {"device": "cpu", "dtype": "float32", "threads": "2", "seed": str(seed)}
    run = FinishedRun(
        run_id_of(arm, seed), f"{arm} seed {seed}", stage, about, {**budget, **machine, **(params or {})}, final, curves,
        (LoggedData("mnist 5-9", "training", "d1ge57"),),
    )  # fmt: skip
    return Member(seed, run, reused)


def run_id_of(arm: str, seed: int) -> str:
    """Return the id of an arm's run."""
    return f"{arm.replace(' ', '-')}-{seed}"


def arm_of(name: str, members: Sequence[Member], *failures: tuple[int, str], label: str = "") -> ReportedArm:
    """Return an arm with its runs."""
    stage = members[0].run.stage if members else "transfer"
    return ReportedArm(name, label or name, stage, tuple(members), failures)


def scored(
    name: str, accuracies: Sequence[float], *failures: tuple[int, str], first: int = 0, **more: object
) -> ReportedArm:
    """Return an arm with one run per test accuracy, seeds counted from `first`."""
    runs = [member(name, seed, value, **more) for seed, value in enumerate(accuracies, first)]  # type: ignore[arg-type]
    return arm_of(name, runs, *failures)


def record_of(name: str, *questions: Question, **more: object) -> PlanRecord:
    """Return the record of a plan run without its outcomes."""
    about = {"title": "A study", "description": "Synthetic.", "profile": "quick", "seeds": 3, "total_seconds": 12.0}
    nothing = {"arms": (), "outcomes": (), "command": ""}
    return PlanRecord(name=name, questions=questions, **{**about, **nothing, **more})  # type: ignore[arg-type]


def plan_run(
    arms: Sequence[ReportedArm],
    *questions: Question,
    links: Links = Links("", ""),  # noqa: B008
    **more: object,
) -> PlanRunFacts:
    """Return a plan run with some arms and questions."""
    record = record_of("synthetic", *questions, **more)
    return PlanRunFacts(record, {arm.name: arm for arm in arms}, links)


def question(
    kind: str, *arms: str, reference: str = "", text: str = "Which?", key: str = "1.1", **more: object
) -> Question:
    """Return a question."""
    return Question(key, "A: synthetic", text, kind, arms, reference, **more)  # type: ignore[arg-type]


class Noise:
    """Seeded curves and numbers that look like training."""

    def __init__(self) -> None:
        self.random = random.Random(7)

    def arm(
        self,
        name: str,
        label: str,
        mean: float,
        spread: float,
        *,
        seeds: int,
        epochs: int,
        epoch_seconds: float,
        train: float = 0.9999,
        speed: float = 0.5,
        failures: tuple[tuple[int, str], ...] = (),
        reused: bool = False,
        stage: str = "transfer",
        params: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
        base: str = "",
    ) -> ReportedArm:
        """Return an arm around a mean accuracy, which its curves approach at `speed`."""
        failed = {seed for seed, _ in failures}
        members = []
        for seed in (seed for seed in range(seeds) if seed not in failed):
            final = min(0.9999, self.random.gauss(mean, spread))
            count = max(3, round(epochs * self.random.uniform(0.8, 1.2)))
            climb = [1 - 0.75 * (1 + speed * epoch) ** -2.6 for epoch in range(1, count + 1)]
            accuracies = [min(0.9995, final * part + self.random.gauss(0, 0.0008)) for part in climb]
            floor = 1.2 * (1 - final) + 0.01
            losses = [
                floor + 1.2 * (1 + speed * epoch) ** -1.5 * self.random.uniform(0.95, 1.05)
                for epoch in range(1, count + 1)
            ]
            members.append(
                member(
                    name,
                    seed,
                    final,
                    precision=final - abs(self.random.gauss(0, 0.002)),
                    train=max(final, train),
                    validation=min(0.9999, final + self.random.gauss(0, spread / 3 + 0.001)),
                    epochs=count,
                    losses=losses,
                    accuracies=accuracies,
                    seconds=count * epoch_seconds * self.random.uniform(0.95, 1.05),
                    params=params,
                    metrics=metrics,
                    stage=stage,
                    reused=reused and seed < 2,
                    tags={names.BASE_RUN_ID: run_id_of(base, seed)} if base else None,
                )
            )
        return arm_of(name, members, *failures, label=label)


def on_features(arm: ReportedArm, name: str, label: str, share: float, metrics: dict[str, float]) -> ReportedArm:
    """Return the arm on cached features: same weights, a fraction of the time."""
    members = []
    for one in arm.members:
        curves = {**one.run.curves, names.EPOCH_SECONDS: [share * each for each in one.run.curves[names.EPOCH_SECONDS]]}
        final = {**one.run.metrics, names.FIT_SECONDS: share * one.run.metrics[names.FIT_SECONDS], **metrics}
        params = {**one.run.params, "features": "auto"}
        run = replace(one.run, run_id=run_id_of(name, one.seed), params=params, metrics=final, curves=curves)
        members.append(Member(one.seed, run, False))
    return arm_of(name, members, label=label)


def reference_arms(noise: Noise, seeds: int = 5) -> list[ReportedArm]:
    """Return arms like those of the two reference studies."""
    base = {"stage": "train_base", "seeds": seeds}
    few = {"seeds": seeds, "epochs": 180}
    cached = {
        names.FEATURES_SECONDS: 0.31,
        names.FEATURES_SAVED_SECONDS: 0.0041,
        names.BREAK_EVEN_EPOCHS: 75.6,
        names.EPOCH_OPERATIONS: 4e5,
    }

    def about(**params: object) -> dict[str, str]:
        return {"per_class": "100", "val_per_class": "30", "features": "none"} | {k: str(v) for k, v in params.items()}

    arms = [
        noise.arm(
            "base",
            "plain",
            0.9948,
            0.0006,
            epochs=22,
            epoch_seconds=0.42,
            params={"batch_norm": "false", "dropout": "0.0"},
            **base,
        ),
        noise.arm(
            "base_bn",
            "batch norm",
            0.9947,
            0.0004,
            epochs=20,
            epoch_seconds=1.0,
            speed=0.9,
            params={"batch_norm": "true", "dropout": "0.0"},
            **base,
        ),
        noise.arm(
            "base_dropout",
            "dropout 0.2",
            0.9947,
            0.0004,
            epochs=34,
            epoch_seconds=0.7,
            train=0.999,
            speed=0.3,
            params={"batch_norm": "false", "dropout": "0.2"},
            **base,
        ),
        noise.arm(
            "base_tuned",
            "tuned by cross-validation",
            0.9957,
            0.0004,
            epochs=25,
            epoch_seconds=0.5,
            stage="tune",
            seeds=3,
            params={"batch_norm": "true", "dropout": "0.1"},
            metrics={"cv/accuracy": 0.9941, "cv/precision": 0.994, "study/complete": 17, "time/study_seconds": 212.0},
        ),
        noise.arm(
            "five",
            "five frozen",
            0.667,
            0.05,
            epoch_seconds=0.0072,
            params=about(reuse_layers=5, unfreeze=0),
            base="base",
            **few,
        ),
        noise.arm(
            "four",
            "four frozen",
            0.7185,
            0.05,
            epoch_seconds=0.0069,
            params=about(reuse_layers=4, unfreeze=0),
            base="base",
            **few,
        ),
        noise.arm(
            "top_two",
            "four, then the top two unfrozen",
            0.884,
            0.012,
            epoch_seconds=0.0093,
            params=about(reuse_layers=4, unfreeze=2),
            base="four",
            failures=((3, "NonFiniteLossError: the loss is nan in epoch 7"),),
            **few,
        ),
        noise.arm(
            "all_tuned",
            "all five fine-tuned",
            0.9364,
            0.003,
            epoch_seconds=0.013,
            params=about(reuse_layers=5, unfreeze=5),
            base="base",
            reused=True,
            **few,
        ),
        noise.arm(
            "scratch",
            "scratch",
            0.928,
            0.006,
            epoch_seconds=0.0131,
            params=about(reuse_layers=0, unfreeze=0),
            reused=True,
            **few,
        ),
        noise.arm("cnn", "base CNN", 0.9954, 0.0005, seeds=3, epochs=18, epoch_seconds=1.23, stage="train_base"),
        noise.arm(
            "lost",
            "from torchvision",
            0.9,
            0.1,
            seeds=0,
            epochs=2,
            epoch_seconds=1,
            failures=((0, "UserInputError: base: cannot be found"), (1, "UserInputError: base: cannot be found")),
        ),
    ]
    arms.insert(5, on_features(arms[4], "cached", "five frozen, cached", 0.39, cached))
    for labels, tuned, fresh, spread in (
        ("all", 0.9957, 0.9949, 0.001),
        ("100", 0.9731, 0.9766, 0.005),
        ("20", 0.9535, 0.9458, 0.011),
    ):
        epochs, seconds = (14, 0.43) if labels == "all" else (110, 0.025 if labels == "100" else 0.007)
        shared = {"seeds": 3, "epochs": epochs}
        arms += [
            noise.arm(
                f"tuned_{labels}",
                f"fine-tuned, {labels} labels",
                tuned,
                spread,
                epoch_seconds=seconds,
                stage="finetune_cnn",
                params={"per_class": labels, "frozen": "1"},
                base="cnn",
                metrics={names.TRAINABLE_SHARE: 0.97, names.EPOCH_OPERATIONS: 8.1e9},
                **shared,
            ),
            noise.arm(
                f"fresh_{labels}",
                f"scratch, {labels} labels",
                fresh,
                spread,
                epoch_seconds=1.2 * seconds,
                stage="scratch_cnn",
                params={"per_class": labels},
                metrics={names.EPOCH_OPERATIONS: 1.07e10},
                **shared,
            ),
        ]
    return arms


def reference_plan_run(seeds: int = 5) -> PlanRunFacts:
    """Return a plan run like the reference studies: two studies, 15 questions, about 80 runs."""
    arms = reference_arms(Noise(), seeds)
    first, second = "A: digits 0-4 to 5-9, an MLP with few labels", "B: digits 0-6 to 7-9, a CNN"
    questions = (
        Question(
            "1.1",
            first,
            "Test accuracy of the base MLP (5 x 100) on digits 0-4",
            "score",
            ("base",),
        ),
        Question(
            "1.2",
            first,
            "What precision does hyperparameter tuning by cross-validation reach?",
            "compare",
            ("base_tuned",),
            "base",
        ),
        Question(
            "1.3",
            first,
            "Does batch norm speed up convergence and improve the model?",
            "convergence",
            ("base_bn",),
            "base",
        ),
        Question(
            "1.4", first, "Does the network overfit, and does dropout help?", "overfitting", ("base_dropout",), "base"
        ),
        Question(
            "2.1",
            first,
            "What precision do five frozen layers reach with 100 images per digit, and how long does it take?",
            "score",
            ("five",),
        ),
        Question("2.2", first, "How much faster is training on cached features?", "caching", ("cached",), "five"),
        Question(
            "2.3", first, "Is precision higher with four frozen layers than with five?", "compare", ("four",), "five"
        ),
        Question(
            "2.4", first, "Does unfreezing the top two layers improve it further?", "compare", ("top_two",), "four"
        ),
        Question(
            "2.5",
            first,
            "Which arms beat training from scratch?",
            "compare",
            ("five", "four", "top_two", "all_tuned", "lost"),
            "scratch",
        ),
        Question("1", second, "Test accuracy of the base CNN on digits 0-6", "score", ("cnn",)),
        Question("2", second, "Test accuracy after fine-tuning on digits 7-9", "score", ("tuned_all",)),
        Question("3", second, "Test accuracy on digits 7-9 when trained from scratch", "score", ("fresh_all",)),
        Question(
            "4", second, "Is fine-tuning better than training from scratch?", "compare", ("tuned_all",), "fresh_all"
        ),
        Question("5", second, "Which trains longer, and why?", "time", ("tuned_all",), "fresh_all"),
        Question(
            "6",
            second,
            "Does the difference depend on the number of labels?",
            "labels",
            (),
            labelled=tuple((f"tuned_{labels}", f"fresh_{labels}") for labels in ("all", "100", "20")),
        ),
    )
    record = record_of(
        "assignments",
        *questions,
        title="Two reference studies on transfer learning",
        description="Every arm is run with several seeds; seed s of an arm builds on seed s of its base and sees the same images.",
        profile="full",
        seeds=seeds,
        total_seconds=481.6,
        command="mlflow run . -P plan=assignments -P profile=full",
    )
    links = Links("http://127.0.0.1:5000", "1")
    timed = [
        replace(arm, seconds=sum(m.run.metrics[names.FIT_SECONDS] for m in arm.members if not m.reused)) for arm in arms
    ]
    return PlanRunFacts(record, {arm.name: arm for arm in timed}, links, "5" * 32)


def surface_plan_run(seeds: int = 3, labels: Sequence[str] = ("20", "100", "500")) -> PlanRunFacts:
    """Return a plan run over layers reused and unfrozen, for several numbers of labels."""
    noise = Noise()
    arms = []
    for number, per_class in enumerate(labels):
        for reuse in range(6):
            for unfreeze in range(reuse + 1):
                share = unfreeze / reuse if reuse else 1.0
                mean = 0.90 + 0.03 * number - 0.05 * (reuse / 5) * (1 - share) * 3 + 0.01 * share * (reuse / 5)
                name = f"s{per_class}_{reuse}_{unfreeze}"
                params = {"per_class": per_class, "reuse_layers": str(reuse), "unfreeze": str(unfreeze)}
                label = f"{reuse} reused, {unfreeze} unfrozen, {per_class} labels"
                arms.append(
                    noise.arm(
                        name,
                        label,
                        mean,
                        0.006,
                        seeds=seeds,
                        epochs=100,
                        epoch_seconds=0.004 * (1 + share),
                        params=params,
                    )
                )
    surface = Question(
        "1",
        "The transfer surface",
        "How many layers should be reused and unfrozen, by number of labels?",
        "surface",
        tuple(arm.name for arm in arms),
    )
    return plan_run(arms, surface, seeds=seeds, title="The transfer surface")
