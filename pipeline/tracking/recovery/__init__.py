"""Interrupted and orphaned runs.

Read in this order: `run_history` (what a run logged so far), `resume` (which runs can be resumed), `orphans` with
`unstarted_runs` (RUNNING runs without a process), `restore_killed` (the status of an interrupted `mlflow run`).
"""
