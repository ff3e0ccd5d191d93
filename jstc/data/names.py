"""A million names in two arrays. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.data.sampling import Indices

__all__ = ["Names"]


@dataclass(frozen=True, eq=False)
class Names:
    """Byte strings by index.

    A worker process shares arrays with its parent for good; of a list it would copy every object that it
    touches, because that counts references. `text` holds all of them in a row, `ends` where each one ends.
    """

    text: NDArray[np.uint8]
    ends: Indices

    @classmethod
    def pack(cls, names: Sequence[bytes]) -> Names:
        """The same names, packed."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return cls(np.frombuffer(b"".join(names), dtype=np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """All names of `parts`, in order."""
        if not parts:
            return cls.pack([])
        starts = np.cumsum([0] + [len(part.text) for part in parts[:-1]])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends).astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes()
