"""How long the command line takes to answer, beside what it cannot avoid.

    python -m benchmarks.startup [--runs 7]

Runs, interleaved, `jstc --help`, `import torch` and `jstc inspect resnet50`, each as a process of its own,
and prints median seconds and the time that `inspect` takes beyond importing torch (median of paired
differences).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "jstc --help": ["-m", "jstc", "--help"],
    "import torch": ["-c", "import torch"],
    "jstc inspect resnet50": ["-m", "jstc", "inspect", "resnet50"],
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    for arguments in COMMANDS.values():  # once unmeasured, so that all files are in the cache
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    for name, values in times.items():
        print(f"{name:24} {statistics.median(values):6.2f} s   ({min(values):.2f} to {max(values):.2f})")
    pairs = zip(times["jstc inspect resnet50"], times["import torch"], strict=True)
    print(f"{'inspect beyond torch':24} {statistics.median(a - b for a, b in pairs):6.2f} s")


if __name__ == "__main__":
    main()
