"""One file an entry point: a function from a parameter record to a `StageResult`."""
