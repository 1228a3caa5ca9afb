"""Names of metrics, tags and artifacts: a contract with users, reports and later stages."""

FORMAT_VERSION = (
    "2"  # label samples by image identity, classes by name; version 1 (no tag) had positions and class indices
)

# metrics, one value per epoch (step = epoch, from 1)
TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"
VAL_LOSS = "val/loss"
VAL_ACCURACY = "val/accuracy"
EPOCH_SECONDS = "time/epoch_seconds"

# metrics, one value per setting tried by tune_on_validation (step = try, from 1)
TRY_VAL_LOSS = "tries/val_loss"
TRY_SECONDS = "tries/seconds"

# final metrics (step 0)
TEST_ACCURACY = "test/accuracy"
TEST_PRECISION = "test/precision"
TRAIN_FINAL_ACCURACY = "train/final_accuracy"
VAL_FINAL_ACCURACY = "val/final_accuracy"
BEST_EPOCH = "best_epoch"
EPOCHS_RUN = "epochs_run"
FIT_SECONDS = "time/fit_seconds"
TOTAL_SECONDS = "time/total_seconds"
EVALUATION_SECONDS = "time/evaluation_seconds"  # final evaluation of the training, validation and test images
DATA_SECONDS = "time/data_seconds"
LOST_SECONDS = "time/lost_seconds"  # resumed runs: work lost to interruptions
FEATURES_SECONDS = "time/features_seconds"
FEATURES_SAVED_SECONDS = "time/features_saved_epoch_seconds"  # time per epoch that cached features save
BREAK_EVEN_EPOCHS = "features/break_even_epochs"
EPOCH_OPERATIONS = "cost/epoch_operations"  # MACs of one pass over the training data
TRAINABLE_SHARE = "cost/trainable_fraction"
PARAMETERS_COUNT = "cost/parameters"
PROBE = "probe/"  # plus accuracy, low, high or logme; step = cut
PROBE_BEST_CUT = "probe/best_cut"
PROBE_BEST_ACCURACY = "probe/best_accuracy"
PROBE_SECONDS = "time/probe_seconds"  # of all solves
HEAD_SECONDS = "time/head_seconds"  # strategy=lp_ft: solving the head, which time/fit_seconds includes
HEAD_L2 = "head/l2"  # solved heads: the penalty selected on validation images
HEAD_L2_AT_EDGE = "head/l2_at_edge"  # 1 if that is the smallest or largest of the grid, else 0
HEAD_ITERATIONS = "head/iterations"  # L-BFGS iterations over the whole grid
HEAD_DROPPED_UNITS = "head/dropped_units"  # inputs that are constant on the training images
TEST_IMAGES = "data/test_images"
TRIES = "tuned/tries"  # tune_on_validation: number of fits; the one with the lowest validation loss is kept
TUNED = "tuned/"  # plus learning_rate, weight_decay: the chosen value
TUNED_AT_EDGE = "tuned/at_edge"  # 1 if a chosen value is the smallest or largest of three or more, else 0
TRIES_SECONDS = "time/tries_seconds"  # training time of all tries; time/fit_seconds is that of the chosen one
BALANCED_ACCURACY = "test/balanced_accuracy"  # mean recall of the classes
CLASS_RECALL = "test/recall_"  # plus the name of a class; up to MAX_RECALL_METRICS classes
MAX_RECALL_METRICS = 30
EXCLUDED_TEST_IMAGES = "data/excluded_test_images"  # excluded because the base was trained on them
VAL_THRESHOLDS = (
    0.95,
    0.98,
    0.99,
)  # for epochs/to_val_0.98 and time/to_val_0.98: epochs and seconds until first reached

# tags
STAGE = "stage"
ARM = "arm"  # of a plan
ARM_LABEL = "arm_label"
PLAN = "plan"  # its name, on a plan run
DATASET = "dataset"
CLASSES = "classes"
FORMAT = "format_version"  # see FORMAT_VERSION
BASE_MODEL_URI = "base_model_uri"
BASE_RUN_ID = "base_run_id"
CACHE_KEY = "cache_key"
KEY_PARTS = "cache_key_parts"  # JSON: the parts of the cache key, to explain cache misses
ANCESTRY = "ancestry"
CLASS_OVERLAP = "class_overlap"
FEATURES_FINGERPRINT = "features_fingerprint"
CUT_FINGERPRINT = "cut_features_fingerprint"  # of the base; which images they cover is in the file
CUT_CONTENT = "cut_features_content"  # digest of the file's tensors
CUT_SECONDS = "cut_features_seconds"  # of the pass over the images
CODE_DIGEST = "code_digest"
WEIGHTS_DIGEST = "weights_digest"
MODEL_DIGEST = "handover_digest"  # of a logged model: weights, architecture and image identities
MODEL_URI = "model_uri"
SERVABLE = "servable"  # of a logged model: whether it has the graph that `mlflow models serve` needs
PARAMETERS = "resolved_parameters"  # JSON: resolved parameters (`mlflow run` logs them unresolved)
INHERITED_LABELS = "inherited_draw"  # trained on the label sample of its base
SUPERSEDED_BY = "superseded_by"  # the run of a step that another process took over: run id of the new one
RESUMED_RUN_ID = "resumed_run_id"  # on the run created by `mlflow run -e resume`
LOCAL_RUN_ID = "local_run_id"  # the id of a run that was started while the store was unreachable
RESUMED_WITH = "resumed_with"  # JSON: differences found when the run was resumed
HARDWARE = "hardware"  # processor, cores and GPU that the run was made on
OPENED = "opened"  # when the current process opened the run, in ms
WORKED_SECONDS = "worked_seconds"  # work of previous processes up to the restored checkpoint
WASTED_SECONDS = "wasted_seconds"  # work of previous processes after that checkpoint
WINNING_SETTING = "winning_setting"  # of a search by cross-validation: name=value, joined by commas
CONVERGED = "converged"  # "yes" if early stopping or the solver's tolerance ended the fit, else "no: " and the reason
NOTE = "mlflow.note.content"
PLAN_DIGEST = "study_digest"  # on a plan run: digest over its steps
PARENT_RUN_ID = "mlflow.parentRunId"
GIT_COMMIT = "mlflow.source.git.commit"
DATA_CONTEXT = "mlflow.data.context"  # of a logged dataset: training, validation or testing

# artifacts
CHECKPOINTS = "checkpoints"
WORKER_LOG = "worker.log"  # of a plan step: what its worker process printed
FIGURES = "figures"
HISTORY = "history.csv"
PROFILE = "profile.csv"  # of a probe: scores by cut
TRIES_TABLE = "tries.csv"  # settings tried on validation images, and their results
L2_PATH = "l2_path.csv"  # of a solved head: validation loss and accuracy for each L2 penalty
CLASS_TABLE = "classes.csv"  # per class: logit, name, images per split and recall
TEST_PREDICTIONS = "test_predictions.csv"  # identity, class and predicted class of each test image
BEST_SETTING = "best_setting.json"
MODEL = "model"
FEATURES = "features"
FEATURES_FILE = "features.safetensors"
CUT_FEATURES_FILE = "cuts.safetensors"  # pooled features at several cuts
REPORT = "report"
PLAN_RECORD = "study.json"
RECOMMENDATION = "recommended.txt"  # the arm to use, as the command prints it
LOAD_REPORT = "load_report.json"
PROVENANCE = "provenance.json"  # of an imported network: library or code, weights file, digests, license
OWN_SOURCE = "own_network.py"  # the user's code that built a network, for reading; never executed

# files next to the servable graph of a logged model
WEIGHTS_FILE = "weights.safetensors"
ARCHITECTURE_FILE = "architecture.json"
IDENTITIES_FILE = "draw.safetensors"  # identities of images: trained on, validated on, seen by any ancestor
EXTRA_FILES = "extra_files"
MODEL_CARD = "model_card.md"

MAX_TAG_LENGTH = 8000  # of a tag's value; longer ones are rejected by some stores
