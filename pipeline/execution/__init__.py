"""Runs the steps of a plan. Read `runner`: it calls each step's stage in order, and cached results are reused."""
