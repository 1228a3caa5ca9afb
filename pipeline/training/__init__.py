"""Training, evaluation and checkpoints; independent of MLflow.

Read `records`, `loop` (with `batches`), then `steps`, `optimizers`, `manual_backward`, `flat_parameters` and `ema`.
`evaluate`, `features` and `checkpoint` are independent of these. `head_fit` solves a head on frozen
blocks instead of training it.
"""
