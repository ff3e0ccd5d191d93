"""How a checkout is built, in figures, and how many files a reader opens: `python -m benchmarks.structure --help`."""
