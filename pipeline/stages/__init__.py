"""One module per entry point, however short: a function from a parameter record to a `StageResult`.

Read `train_base`, then `fit_settings`, `training_run` and `training_result`, which all training stages share;
`base_selection`, `target_setup` and `target_training`, which `transfer`, `finetune_cnn` and `scratch_cnn` share;
`cache_features`; `tune` with `tune_setup` and `tune_search`; `main`.

A stage takes its parameters, the `plan_context` of the plan run that it is a step of (which has the cached results),
and the id of an interrupted run to resume. It returns the run's id, the model's URI and the final metrics, and raises
    UserInputError: invalid parameters, base, labels or store; before a run is created.
    NonFiniteLossError: training diverged; the run is FAILED.
    Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint is kept.
"""
