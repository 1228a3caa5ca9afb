"""The project against its peers, side by side in one run; figures are ratios, since machines are noisy."""
