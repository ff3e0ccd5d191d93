"""Runs: their directories and manifests, and the chain of stages from a recipe to a report."""
