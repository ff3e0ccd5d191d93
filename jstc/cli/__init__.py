"""The command line. Importing this loads neither torch nor onnx nor pydantic: `--help` must be quick."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    # OpenMP's threads otherwise spin while they wait for each other; where another process wants the same
    # cores, that made training three to five times slower. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from jstc.cli.app import app
    from jstc.cli.errors import exit_codes

    with exit_codes():
        app(args=None if arguments is None else list(arguments), prog_name="jstc")
