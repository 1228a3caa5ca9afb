"""Everything that is stored in MLflow; no other package imports it.

Read in this order: `names` (metrics, tags, artifacts), `store` with `database` and `schema` (connecting), `stage_run`,
`run_creation` and `lifecycle` (logging a run), `outbox` (uploading logged data), `recovery` (interrupted runs),
`cache_key`, `claims`, `plan_context` and `result_cache` (cached and shared steps of plans), `model_export`,
`graph_export`, `model_import`, `base_model` and `base_search` (models), `feature_artifacts` and `cut_artifacts`
(features), `queries` (reading runs back), `store_checks` (for `doctor`), `ui_page` (for `ui`).
"""
