"""Cross-validated Optuna studies: the only folder that imports optuna."""
