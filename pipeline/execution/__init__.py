"""Runs the steps of a plan. Read `runner`: each step through its stage, in order, with cached results reused."""
