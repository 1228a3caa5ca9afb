"""Data that a run has logged, stored on disk until it is uploaded.

Read in this order: `journal` (the file of entries), `local_state` (the folder of a run), `sender` with `model_upload`
(entries to MLflow calls), `uploader` (the background threads).
"""
