"""Networks as a sequence of blocks and a head.

Read `layered` (architecture records, the network), then `build`, then `reuse`.
"""
