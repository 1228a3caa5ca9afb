"""What is remembered: the only folder that imports mlflow."""
