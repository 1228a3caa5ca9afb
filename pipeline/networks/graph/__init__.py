"""Divide any network into blocks by tracing its graph.

Read `trace` (one graph for both modes; `compare`), `cuts` (block boundaries; `naming`), `pooling`, `record` (what is
stored), `assemble` (one module per block), then `network`, which combines them.
"""
