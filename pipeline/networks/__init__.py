"""Networks as an ordered list of blocks plus a head.

Read `layered` (architecture records, the network), then `build`, then `reuse`.
"""
