"""Runs killed, interrupted and resumed: `python -m benchmarks.robustness.faults --help`."""
