"""Blocks of any network, found from its graph.

Read `trace` (one graph for both modes; `compare`), `cuts` (where blocks end; `naming`), `pooling`, `record` (what is
stored), `assemble` (one module per block), then `network`, which puts them together.
"""
