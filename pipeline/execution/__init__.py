"""Runs the steps of a plan.

Read in this order: `records` (messages between processes), `executor` (the interface), `runner` (which step runs next),
`attempt` (one step), `in_process`, then for worker processes `channel`, `worker`, `supervisor`, `budget` and `local`;
on a Dask cluster `cluster_address`, `dask_executor` and `dask_worker`. `display` and `status` show the progress.
"""
