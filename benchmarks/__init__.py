"""The project against its peers, side by side in one run; figures are ratios, since machines are noisy."""

import pipeline  # noqa: F401  before torch: it sets how threads wait for each other
