"""Images: where they come from and how they are split.

Read `records`, then `sources.registry`, then `stratified` and `splits`.
"""
