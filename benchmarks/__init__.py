"""Measurements of jstc, a package a subject; in the checkout: `python -m benchmarks.SUBJECT --help`."""
