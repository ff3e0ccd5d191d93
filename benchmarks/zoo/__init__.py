"""Many networks analysed, cut, counted and exported: `python -m benchmarks.zoo --help`."""
