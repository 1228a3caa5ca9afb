"""Cross-validated Optuna studies; the only package that imports optuna.

Read `search_space`, then `objective` (one trial), then `workers` (its processes) and `study` (storage, lost trials).
"""
