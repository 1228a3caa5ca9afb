"""One module per entry point, however short: a function from a parameter record to a `StageResult`.

Read in this order; modules in parentheses are parts of what comes before them:
    training: `train_base` (`data_loading`, `class_table`, `augment`, `base_network`), `fit_settings`, `training_run`
        (`fitting`, `fit_summary`), `training_result` (`model_card`, `next_command`)
    reuse: `transfer`, `finetune_cnn` and `scratch_cnn` share `base_selection`, `target_setup` and `target_training`
        (`feature_source`, `strategy`); `cache_features` and `probe` share `cut_pass`
    others: `import_base` (`imported_network`), `tune` (`tune_setup`, `tune_search`), `resume`, `report`
    plans: `main`, `plan_data` (`plan_arms`), `plan_base`, `plan_features`, `plan_cost`, `plan_executor`
        (`host_facts`), `rounds`

A stage takes its parameters, the `plan_context` of the plan run that it is a step of (which has the cached results),
and the id of an interrupted run to resume. It returns the run's id, the model's URI and the final metrics, and raises
    UserInputError: invalid parameters, base, labels or store; before a run is created.
    NonFiniteLossError: training diverged; the run is FAILED.
    Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint is kept.
"""
