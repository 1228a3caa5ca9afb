"""Load datasets, decode images, and split them.

Read `records`, `preprocessing` and `identity`; `sources.registry` with `download` and `reachability`; `decode`,
`folder_listing` and `store`; then `stratified`, `file_splits`, `examples`, `splits` and `classes`, and `normalization`.
`idx` reads the files of the MNIST family; `torchvision_import` imports torchvision beside any build of PyTorch.
"""
