"""Cross-validated Optuna studies; the only package that imports optuna.

Read `search_space`, `objective` (one trial), `workers` (the processes) and `study` (storage, lost trials).
"""
