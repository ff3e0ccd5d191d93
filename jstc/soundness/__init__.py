"""What makes a trained network sound: its values, the weights that its images reach, its rounding."""

from __future__ import annotations

from jstc.soundness.rounding import ROUNDINGS, Rounding, Undecided, plain_scores, rounding
from jstc.soundness.values import Unreached, require_sane, unreached

__all__ = [
    "ROUNDINGS",
    "Rounding",
    "Undecided",
    "Unreached",
    "plain_scores",
    "require_sane",
    "rounding",
    "unreached",
]
