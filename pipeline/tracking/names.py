"""Names of metrics, tags and artifacts: the contract that users, reports and later stages read by."""

from __future__ import annotations

# metrics, one value an epoch (step = epoch, from 1)
TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"
VAL_LOSS = "val/loss"
VAL_ACCURACY = "val/accuracy"
EPOCH_SECONDS = "time/epoch_seconds"

# metrics at the end (step 0)
TEST_ACCURACY = "test/accuracy"
TEST_PRECISION = "test/precision"
TRAIN_FINAL_ACCURACY = "train/final_accuracy"
VAL_FINAL_ACCURACY = "val/final_accuracy"
BEST_EPOCH = "best_epoch"
EPOCHS_RUN = "epochs_run"
FIT_SECONDS = "time/fit_seconds"
TOTAL_SECONDS = "time/total_seconds"
EVALUATION_SECONDS = "time/evaluation_seconds"  # of training, validation and test images, at the end
DATA_SECONDS = "time/data_seconds"
LOST_SECONDS = "time/lost_seconds"  # work that interruptions have cost, of a run that was resumed
FEATURES_SECONDS = "time/features_seconds"
FEATURES_SAVED_SECONDS = "time/features_saved_epoch_seconds"  # what an epoch no longer spends in the frozen blocks
BREAK_EVEN_EPOCHS = "features/break_even_epochs"
EPOCH_OPERATIONS = "cost/epoch_operations"  # multiply-adds of one pass over the training data
TRAINABLE_SHARE = "cost/trainable_fraction"
PARAMETERS_COUNT = "cost/parameters"
VAL_THRESHOLDS = (0.95, 0.98, 0.99)  # time/to_val_0.98 and epochs/to_val_0.98 say when validation first reached it

# tags
STAGE = "stage"
DATASET = "dataset"
CLASSES = "classes"
BASE_MODEL_URI = "base_model_uri"
BASE_RUN_ID = "base_run_id"
CACHE_KEY = "cache_key"
KEY_PARTS = "cache_key_parts"  # JSON: what the key is made of, so that a later run can say what changed
ANCESTRY = "ancestry"
CLASS_OVERLAP = "class_overlap"
FEATURES_FINGERPRINT = "features_fingerprint"
FEATURES_SOURCE = "features_source"
CODE_DIGEST = "code_digest"
WEIGHTS_DIGEST = "weights_digest"
MODEL_DIGEST = "handover_digest"  # of a logged model: weights, architecture and draw together
MODEL_URI = "model_uri"
PARAMETERS = "resolved_parameters"  # JSON: `mlflow run` logs parameters as typed, this tag as resolved
INHERITED_DRAW = "inherited_draw"  # the labels drawn are those of the base that is continued
RESUMED_RUN_ID = "resumed_run_id"  # on the run that `mlflow run -e resume` makes
LOCAL_RUN_ID = "local_run_id"  # the id of a run that was begun while the store did not answer
RESUMED_WITH = "resumed_with"  # JSON: what differed when the run was resumed
OPENED = "opened"  # when the process that works on a run opened it, in ms
WORKED_SECONDS = "worked_seconds"  # what earlier processes have spent on what was kept
WASTED_SECONDS = "wasted_seconds"  # what they have spent on what was not
CONVERGED = "converged"  # "yes" where patience ended the fit, else why not
NOTE = "mlflow.note.content"
PLAN_DIGEST = "study_digest"  # of a study's run: which runs make it up
PARENT_RUN_ID = "mlflow.parentRunId"

# artifacts
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
HISTORY = "history.csv"
BEST_SETTING = "best_setting.json"
MODEL = "model"
FEATURES = "features"
FEATURES_FILE = "features.safetensors"
REPORT = "report"
PLAN_RECORD = "study.json"
LOAD_REPORT = "load_report.json"

# files beside the servable graph in a logged model
WEIGHTS_FILE = "weights.safetensors"
ARCHITECTURE_FILE = "architecture.json"
DRAW_FILE = "draw.safetensors"
EXTRA_FILES = "extra_files"
