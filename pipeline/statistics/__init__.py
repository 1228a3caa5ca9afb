"""Turn paired results into verdicts; pure functions.

Read in this order: `estimates` (means, intervals, pairs), `looks` (p values at the fixed numbers of seeds), `family`
(Holm's correction), `verdict` (the record a report shows). `planning` and `stopping` answer how many seeds are needed,
`sources` what an interval covers; `surfaces` and `worth` answer the two questions beyond plain comparisons.
docs/verdicts.md explains the procedure and its limits.
"""
