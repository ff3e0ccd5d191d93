"""Accuracy at equal total training, of jstc and its rivals: `python -m benchmarks.accuracy --help`."""
