"""Networks beyond classifiers, each through everything: `python -m benchmarks.beyond --help`."""
