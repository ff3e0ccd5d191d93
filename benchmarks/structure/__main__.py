"""A checkout in figures, or several side by side.

    python -m benchmarks.structure                      # this one
    python -m benchmarks.structure ../jstc-before .     # before and after

For `jstc/`: files, their lines in the median and at most, packages, modules with one user (imported by one
other module), imports inside functions, lines with `dict[str, Any]`, circles of imports, longest function;
then lines of Python in `jstc/`, `tests/` and `benchmarks/`, and how many files somebody opens who follows one
value (`journeys.py` says through which functions; a function that is no longer there is an error).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.structure.counts import measure
from benchmarks.structure.journeys import JourneyError, files_opened

__all__ = ["main", "table"]


def table(roots: list[Path]) -> list[str]:
    """Lines of text: a row for every figure, a column for every checkout. Raises `JourneyError`."""
    columns = [asdict(measure(root)) | files_opened(root) for root in roots]
    names = list(columns[0])
    width = max(len(name) for name in names)
    lines = [f"{name.replace('_', ' '):{width}}" for name in names]
    for column in columns:
        shown = [f"{column[name]:g}" for name in names]
        room = max(8, *(len(text) + 2 for text in shown))
        lines = [f"{line}{text:>{room}}" for line, text in zip(lines, shown, strict=True)]
    return lines


def main() -> int:
    """Exit code: 1 if a journey leads through a function that is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", help="checkouts; without: this one")
    roots = parser.parse_args().roots or [Path(__file__).parents[2]]
    try:
        print("\n".join(table(roots)))
    except JourneyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
