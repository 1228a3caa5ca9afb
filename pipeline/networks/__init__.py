"""Networks as a sequence of blocks and a head.

Read `layered` (architecture records, the network), then `build` with `initialization` and `from_params`, then `reuse`.
`graph` divides any module into blocks, `origins` builds networks of libraries and own code, `weights_file` and
`tensor_file` read weights. `convolutions` chooses memory format and precision; `macs` counts operations.
"""
