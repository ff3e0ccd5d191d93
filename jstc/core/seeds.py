"""Seeds as pure functions of a run's seed and a purpose. No torch here."""

from __future__ import annotations

import hashlib
import json

__all__ = ["derive"]


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from `seed` and the purpose and indices in `parts`; the same in every process.

    A hash (BLAKE2) of all of them, so that no two purposes share numbers.
    """
    text = json.dumps([seed, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
