"""Benchmarks against other tools, interleaved in one run and reported as ratios, because machines are noisy.

Read `rows`, `harness` and `commands`, then any part; `__main__` runs them, `render` writes the page.
"""

import pipeline  # noqa: F401  before torch: it sets how threads wait for each other
