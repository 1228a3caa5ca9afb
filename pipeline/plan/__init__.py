"""Plans as data: arms, grids, bases and questions. Runs nothing.

Read `records`, then `loader` (which uses `arms`, `questions` and `validation`), then `outcome`.
"""
