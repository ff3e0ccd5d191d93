"""Shows that a change of jstc's code changes no result: `python -m benchmarks.equality --help`."""
