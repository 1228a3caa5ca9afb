"""How a network is trained, scored and kept; knows nothing of MLflow."""
