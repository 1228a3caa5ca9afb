"""What the process that workers are forked from imports, once for all of them."""

import gc

gc.set_threshold(100_000, 50, 100)  # as in `pipeline.__main__`: most of an import's time is the collector's otherwise

import pipeline.tuning.workers  # noqa: E402, F401

gc.freeze()  # a collection in a worker would copy the pages that it shares with the others
