"""Damaged input of every kind, thousands of times: always one message and the right exit code.

    python -m benchmarks.robustness.fuzz [--cases 2000] [--seed 0] [--only KIND,...] [--case N] [--keep DIR]
        [--readers]

A small run is made once. Every case copies it, damages one file of it (recipes, plans, model specs,
manifests, summaries, results, histories, safetensors, checkpoints, images, parquet and ONNX files: bytes cut
off or flipped, wrong types, huge numbers, NaN, depth, keys deleted or given twice), calls one command in a
process of its own, and looks at what happened. With --readers the functions that read these files are called
instead, in this process, which is many times as quick. A finding is

- a traceback, or an error that nobody foresaw (`--debug shows the traceback`), or no message, or two;
- an exit code other than 0, 1, 2 and 3; a process that was killed, ran out of memory or of time;
- a control character on stdout or stderr;
- after a failure, another content of the damaged file.

A case is decided by the seed and its number alone: `--case N` repeats it, and `--keep DIR` leaves its files.
The last line is a JSON document; the exit code is 1 when there are findings.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.robustness.fuzz import base as fuzz_base
from benchmarks.robustness.fuzz.kinds import KINDS, Kind
from benchmarks.robustness.fuzz.process import in_process

__all__ = ["Outcome", "damaged", "judged", "main", "make", "run_case"]

_TOLD_EVERY = 50
_CODES = (0, 1, 2, 3)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What a command makes again is no longer what was damaged.
_WORKED = re.compile("a stage would begin|running it|running .* again")
_UNFORESEEN = "--debug shows the traceback"


@dataclass(frozen=True)
class Outcome:
    """What one case came to; `finding` is None when everything is as it should be."""

    number: int
    kind: str
    words: list[str]
    file: str
    code: int
    seconds: float
    finding: str | None = None
    output: str = ""


def main() -> None:
    options = _options()
    os.environ["JSTC_CACHE"] = str(Path(tempfile.mkdtemp(prefix="jstc-fuzz-cache-")))
    os.environ.update(OMP_NUM_THREADS="1", NO_COLOR="1")
    with tempfile.TemporaryDirectory(prefix="jstc-fuzz-") as folder:
        base = Path(folder) / "base"
        make(base)
        numbers = [options.case] if options.case is not None else range(options.cases)
        if options.readers:
            outcomes = _read(base, numbers, options)
        else:
            wanted = options.only.split(",") if options.only else list(KINDS)
            outcomes = _called(base, numbers, wanted, options)
    shutil.rmtree(os.environ["JSTC_CACHE"], ignore_errors=True)
    findings = [outcome for outcome in outcomes if outcome.finding]
    print(json.dumps(_counted(outcomes) | {"seed": options.seed}))
    sys.exit(1 if findings else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Damage every kind of input file; see the top of its module."
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="KIND,...")
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files of findings there")
    parser.add_argument("--readers", action="store_true", help="call functions instead of commands")
    return parser.parse_args()


def _called(
    base: Path, numbers: Iterable[int], wanted: list[str], options: argparse.Namespace
) -> list[Outcome]:
    """Every case, or those until Ctrl-C."""
    outcomes: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt):
        for number in numbers:
            outcomes.append(_told(run_case(base, number, options.seed, wanted, keep=options.keep)))
            if len(outcomes) % _TOLD_EVERY == 0:
                print(f"{len(outcomes)} cases", file=sys.stderr, flush=True)
    return outcomes


def _read(base: Path, numbers: Iterable[int], options: argparse.Namespace) -> list[Outcome]:
    """Cases of functions that read, in this process."""
    from benchmarks.robustness.fuzz.readers import READERS, read_case, warm_up
    from jstc.models import user_code

    os.chdir(base)
    user_code.trust("net.py:Small")
    wanted = options.only.split(",") if options.only else list(READERS)
    warm_up(base, wanted)
    found = [(number, read_case(base, number, options.seed, wanted)) for number in numbers]
    os.chdir(base.parent)
    outcomes = [
        Outcome(n, case.reader, [], case.file, case.code, case.seconds, case.finding) for n, case in found
    ]
    return [_told(outcome) for outcome in outcomes]


def make(base: Path) -> None:
    """Make the run and the files that are damaged; this process has then loaded what commands load."""
    base.mkdir()
    before = Path.cwd()
    os.chdir(base)
    with contextlib.redirect_stdout(io.StringIO()):
        fuzz_base.make(base)
    os.chdir(before)
    shutil.copytree(base / "run", base / "base")  # what a damaged one is compared with


def run_case(base: Path, number: int, seed: int, wanted: list[str], *, keep: Path | None = None) -> Outcome:
    """Damage, call, judge: case `number` of `seed`."""
    rng = random.Random(f"{seed}/{number}")
    name = wanted[number % len(wanted)]
    with tempfile.TemporaryDirectory(prefix="case-", dir=base.parent) as scratch:
        folder = Path(scratch) / "here"
        shutil.copytree(base, folder, symlinks=True)
        words, file = damaged(KINDS[name], folder, rng)
        before, output = file.read_bytes(), Path(scratch) / "output"
        began = time.monotonic()
        code, killed = in_process(folder, lambda: _call(words, idle=KINDS[name].idle), output)
        seconds = time.monotonic() - began
        text = output.read_bytes().decode("utf-8", "backslashreplace")
        finding = killed or judged(code, text)
        if not finding and code and not _WORKED.search(text):
            finding = (
                None if file.exists() and file.read_bytes() == before else "the damaged file was changed"
            )
        if finding and keep:
            shutil.copytree(folder, keep / f"{seed}-{number}", symlinks=True, dirs_exist_ok=True)
        shown = text if finding else ""
        return Outcome(number, name, words, str(file.relative_to(folder)), code, seconds, finding, shown)


def damaged(kind: Kind, folder: Path, rng: random.Random) -> tuple[list[str], Path]:
    """Damage one file of the kind in `folder`; returns the words of a command that meets it, and the file."""
    found = sorted(path for pattern in kind.files for path in folder.glob(pattern))
    file = rng.choice(found)
    return kind.prepare(folder, file, rng), file


def judged(code: int, text: str) -> str | None:  # noqa: PLR0911 - a return for every finding
    """The fault in an exit code and what was printed; None: there is none."""
    if "Traceback (most recent call last)" in text:
        return "a traceback"
    if _UNFORESEEN in text:
        return "an error that nobody foresaw"
    if code not in _CODES:
        return f"exit code {code}"
    messages = len(re.findall(r"(?m)^error: ", text)) + len(re.findall(r"(?m)^Usage: ", text))
    if code and messages != 1:
        return f"{messages} messages"
    if not code and messages:
        return "a message, and exit code 0"
    if "Warning:" in text or "Exception ignored" in text:
        return "a warning of Python's"
    found = _CONTROL.search(text)
    return f"the control character {found[0]!r}" if found else None


def _call(words: list[str], *, idle: bool) -> int:
    from jstc.models import user_code

    user_code.trust("net.py:Small")  # here: a copy is another file
    if idle:
        _stop_before_work()
    if words[0] == "load":
        return _loaded(words[1])
    return fuzz_base.call(words)


def _stop_before_work() -> None:
    from jstc.errors import StageError
    from jstc.runs.chain import Chain

    def work(*_: object) -> None:
        raise StageError("a stage would begin")

    Chain._work = work  # type: ignore[method-assign,assignment]


def _loaded(path: str) -> int:
    import jstc
    from jstc.errors import JstcError

    try:
        jstc.load(path, allow_code="net.py:Small")
    except JstcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _told(outcome: Outcome) -> Outcome:
    if outcome.finding:
        print(f"case {outcome.number} ({outcome.kind}, {outcome.file}): {outcome.finding}")
        print(f"    jstc {' '.join(outcome.words)}   exit code {outcome.code}, {outcome.seconds:.1f} s")
        shown = outcome.output.strip().encode("unicode_escape").decode().replace("\\n", "\n")
        print("\n".join(f"    | {line[:200]}" for line in shown.splitlines()[-12:]), flush=True)
    return outcome


def _counted(outcomes: list[Outcome]) -> dict[str, object]:
    codes = collections.Counter(str(outcome.code) for outcome in outcomes)
    kinds = collections.Counter(outcome.kind for outcome in outcomes)
    return {
        "cases": len(outcomes),
        "findings": sum(outcome.finding is not None for outcome in outcomes),
        "exit_codes": dict(sorted(codes.items())),
        "kinds": dict(kinds),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "slowest": round(max((outcome.seconds for outcome in outcomes), default=0.0), 1),
    }


if __name__ == "__main__":
    main()
