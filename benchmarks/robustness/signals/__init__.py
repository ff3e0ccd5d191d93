"""Signals at any moment of a real run: `python -m benchmarks.robustness.signals --help`."""
