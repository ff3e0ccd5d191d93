"""Shared by all tests: no network, no surprises from the surroundings."""

from __future__ import annotations

import os

from hypothesis import settings

# Set before torch is imported: the tests' tensors are tiny, and threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, however slow the machine: a failure must mean a fault.
settings.register_profile("jstc", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("jstc")
