"""Damaged input of every kind: `python -m benchmarks.robustness.fuzz --help`."""
