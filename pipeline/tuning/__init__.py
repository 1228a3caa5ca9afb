"""Cross-validated Optuna studies; the only package that imports optuna.

Read `search_space`, `objective` (one fold), `schedule` (what to do next), `sampling` (the settings of a generation),
`tasks` (how workers share the work), `trial_run` (MLflow), `workers` with `preload` and `job` (the processes), `shared`
and `shared_examples` (their data) and `study` (the storage). `figures` draws a study; `storage_checks` is for `doctor`.
"""
