"""Interrupted and orphaned runs. Read `resume`, `run_history`, `orphans`, then `restore_killed`."""
