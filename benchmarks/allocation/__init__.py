"""The policy replayed on a table of trained networks: `python -m benchmarks.allocation --help`."""
