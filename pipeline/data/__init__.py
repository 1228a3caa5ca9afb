"""Images: where they come from and how they are split.

Read `records` and `preprocessing`, then `sources.registry`, `decode`, `folder_listing` and `store`, then `stratified`,
`file_splits` and `splits`.
"""
