"""The configuration and data that the workers of a study share."""

from dataclasses import dataclass, replace

import torch
from optuna.trial import FrozenTrial
from torch import Tensor

from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.from_params import architecture_from_params, with_convolutions
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import process_lives
from pipeline.training.records import FitSettings
from pipeline.tuning.objective import Metrics, score_fold
from pipeline.tuning.search_space import Space, with_setting
from pipeline.tuning.shared import SharedTensors
from pipeline.tuning.shared_examples import SharedExamples
from pipeline.tuning.study import StudySpec


@dataclass(frozen=True)
class Job:
    """A study, as its workers receive it."""

    spec: StudySpec
    space: Space
    params: TuneParams  # with the device resolved
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    settings: FitSettings  # of each fold's fit; a trial replaces the searched values
    data: SharedExamples  # all training images
    identities_and_folds: SharedTensors  # identities of these images, then the held-out indices of each fold
    parent_run_id: str  # the study's MLflow run
    folder: str  # working directory
    environment: dict[str, str]  # MLFLOW_* and PIPELINE_*; those of the fork server may differ
    owner: str  # process that started the workers (see `runtime.process_identity`); they exit with it

    @property
    def folds(self) -> list[Tensor]:
        """Indices of the held-out images of each fold."""
        return self.identities_and_folds.tensors[1:]

    def trial_params(self, trial: FrozenTrial) -> TrainBaseParams:
        """Return the parameters of a trial."""
        return with_convolutions(with_setting(self.params, trial.params), self.preprocessing.image_shape)

    def architecture(self, params: TrainBaseParams) -> MLPArchitecture | CNNArchitecture:
        """Return the architecture of a trial."""
        return architecture_from_params(params, self.preprocessing, self.classes)


def score_trial(job: Job, params: TrainBaseParams, fold: int) -> Metrics:
    """Train a trial on one fold (from 1) and return its metrics.

    Raises:
        NonFiniteLossError: Training diverged.
        KeyboardInterrupt: The process that started the workers is gone.
    """

    def check_owner() -> None:
        if not process_lives(job.owner):
            raise KeyboardInterrupt

    settings = replace(
        job.settings,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        weight_decay=params.weight_decay,
        weight_averaging=params.weight_averaging,
    )
    return score_fold(
        job.architecture(params),
        settings,
        job.data.labelled(),
        ids=job.identities_and_folds.tensors[0],
        held_out=job.folds[fold - 1],
        number=fold,
        val_fraction=params.val_fraction,
        device=torch.device(params.device),
        on_epoch=check_owner,
    )
