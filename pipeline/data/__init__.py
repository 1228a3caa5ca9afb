"""Load datasets, decode images, and split them.

Read `records` and `preprocessing`, then `sources.registry`, `decode`, `folder_listing` and `store`, then `stratified`,
`file_splits`, `examples` and `splits`.
"""
