"""Images a second of a search beside plain training: `python -m benchmarks.throughput --help`."""
