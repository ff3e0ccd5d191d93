"""The structure of a checkout in figures: `python -m benchmarks.structure --help`."""
