"""Imported once by the fork server, which takes a module's name, so that workers start with everything loaded."""

import gc

gc.set_threshold(100_000, 50, 100)  # as in `pipeline.__main__`: garbage collection dominates import time otherwise

import torch._dynamo  # noqa: E402, F401  # optimizers import it at their first step

import pipeline.tuning.workers  # noqa: E402, F401

gc.freeze()  # a collection in a worker would copy memory pages shared with the other workers
