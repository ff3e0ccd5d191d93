"""Shows that a change of jstc's code changes no result.

    python -m benchmarks.equality record BEFORE --code ../jstc-before      # the code before, in a checkout
    python -m benchmarks.equality record AFTER --like BEFORE               # this code, on the same tables
    python -m benchmarks.equality compare BEFORE AFTER                     # exit code 1: something differs

`record` runs whole training runs, two dozen commands and the channel analysis of 140 networks, each case in
a folder of OUT; what is there is not done again. All on the CPU and with one thread, so that numbers repeat;
both recordings belong on one machine. Measured times come from a simulated clock (`launch.py`), but for the
table of kernels behind a latency budget, which `--like` takes from an earlier recording together with the
runs that reports are made of.

`compare` looks at every file: JSON, YAML and ONNX by value, tensors bit for bit, text by line. Times, dates,
versions and hashes of files with these in them are masked (`masks.py`), and nothing more. A JSON file given
as `--renames` tells what was changed on purpose; all keys are optional:

    {"recipe": {"search.old": "search.new"},        recipe keys, also for the commands of `record`
     "keys": {"old": "new"},                        keys of JSON documents
     "texts": {"old words": "new words"},           in text files and in strings of documents
     "files": {"finetune/plan": "search/plan"},     parts of paths
     "expected": ["*/report.html", "*/summary.json#/environment/*"]}   files, or values in them, that differ
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import cases, comparison
from .renames import Renames

__all__ = ["main"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="run everything, and keep what it writes")
    record.add_argument("out", type=Path)
    record.add_argument("--code", type=Path, default=Path(__file__).parents[2], help="the checkout to record")
    record.add_argument("--like", type=Path, help="an earlier recording, for its tables and runs")
    record.add_argument("--only", nargs="+", choices=list(cases.CASES), default=list(cases.CASES))
    compare = commands.add_parser("compare", help="find what differs between two recordings")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--all", action="store_true", help="a line for equal files as well")
    for command in (record, compare):
        command.add_argument("--renames", type=Path, help="a JSON file: what was changed on purpose")
    return parser.parse_args()


def main() -> int:
    """The exit code: 1 when a case could not be recorded or something differs."""
    options = _options()
    renames = Renames.read(options.renames)
    if options.command == "record":
        recording = cases.Recording(options.out, options.code, options.like, renames)
        return cases.record(recording, options.only)
    return comparison.report(options.before, options.after, renames, every=options.all)


if __name__ == "__main__":
    sys.exit(main())
