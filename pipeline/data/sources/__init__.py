"""One module per source of images.

Read `source` (the interface), `registry`, `arrays` and `files` (helpers), then any source: `digits`, `mnist_family`,
`folder`, `torchvision_sets`. To add a source, write a module that defines `SOURCE`.
"""
