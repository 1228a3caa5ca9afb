"""Training, evaluation and checkpoints; independent of MLflow.

Read in this order; the first line is the core:
    `records`, `inputs`, `loop` (with `batches`), `steps`, `optimizers`, `batch_size`
    faster steps: `manual_backward`, `flat_parameters`; averaged weights: `ema`; images: `augmentation`,
        `trivial_augment`
    evaluation: `evaluate` (with `chunks`); features: `features`, `cut_features`, `feature_checks`
    state: `checkpoint`, `trained_tensors`
    heads that are solved instead of trained: `head_fit`, `convex_head`, `standardization`, `softmax_regression`,
        `lbfgs`; scores of cuts: `linear_probe`, `logme`
"""
