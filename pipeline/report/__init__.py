"""Figures of single runs, and the report of a plan run.

Read in this order: `records` (what a report is made from), `loader` (reads it from the tracking store and writes the
files), `questions/` (computes the answers), `methods` with `networks_table` and `chosen_settings` (how the numbers were
computed), `claims` (cards of published claims), `recommendation` (the arm to use), `renderer` (HTML and Markdown).
Answers are built from `elements`, `number_text`, and the charts: `chart_frame`, `line_chart`, `row_charts`,
`label_chart`, `surface_charts`. `ad_hoc_plan` makes a plan run record of runs outside of any plan. `run_plots` draws
the figures of one run, `probe_profile` that of a probe.
"""
