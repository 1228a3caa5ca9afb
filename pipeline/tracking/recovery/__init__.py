"""Interrupted and orphaned runs.

Read in this order: `run_history` (what a run logged so far), `resume` (which runs can be resumed), `orphans` (RUNNING
runs without a process), `restore_killed` (the status of an interrupted `mlflow run`), `clean` (deleting local
state), `sync` (uploading the data of a process that is gone).
"""
