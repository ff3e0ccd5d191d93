"""Damaged input (`python -m benchmarks.robustness.fuzz`) and runs broken off (`...faults`)."""
