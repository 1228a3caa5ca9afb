"""One module per entry point: a function from a parameter record to a `StageResult`.

Read `train_base`, then `training_run` (fit, evaluate and log, for all training stages); `base_selection` and
`target_training`, which `transfer`, `finetune_cnn` and `scratch_cnn` share; `cache_features`; `tune`; `main`.

A stage takes its parameters, the `plan_context` of the plan run that it is a step of (which has the cached results),
and the id of an interrupted run to resume. It returns the run's id, the model's URI and the final metrics, and raises
    UserInputError: invalid parameters, base, labels or store; before a run is created.
    NonFiniteLossError: training diverged; the run is FAILED.
    Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint is kept.
"""
