"""Joint search-and-training: rounds that train small sub-networks and learn which channels to keep."""
