"""`python -m jstc`."""

from __future__ import annotations

from jstc.cli import main

main()
