"""What only the person at the command line can allow, for that one command: no file can."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Consent"]


@dataclass(frozen=True)
class Consent:
    """`model`: the network whose code may be run; `pickle`: weights may be unpickled, which runs any code."""

    model: str | None = None
    pickle: bool = False
