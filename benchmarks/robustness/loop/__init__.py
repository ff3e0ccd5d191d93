"""A `JointSearch` in a loop of its own, killed and started again (`python -m benchmarks.robustness.loop`)."""
