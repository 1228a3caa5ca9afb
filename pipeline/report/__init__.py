"""Figures of single runs, and the report of a plan run.

Read in this order: `records` (what a report is made from), `loader` (reads it from the tracking store and writes the
files), `questions/` (computes the answers), `methods` (how the numbers were obtained), `claims` (cards of published
claims), `renderer` (HTML and Markdown). `elements`, `charts`, `label_chart` and `number_text` are what answers are built
from. `ad_hoc_plan` makes a plan run record of runs that no plan has made. `run_plots` draws the figures of one run.
"""
