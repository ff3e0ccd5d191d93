"""Milliseconds of cut networks in onnxruntime: `python -m benchmarks.latency --help`."""
