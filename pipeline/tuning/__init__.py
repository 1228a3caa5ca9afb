"""Cross-validated Optuna studies; the only package that imports optuna.

Read `search_space`, `objective` (one fold), `schedule` (what to do next), `sampling` (the settings of a generation),
`tasks` (how workers share the work), `trial_run` (MLflow), `workers` (the processes) and `study` (the storage).
"""
