"""Many networks, each through everything that jstc says of any network, and beside Torch-Pruning.

    python -m benchmarks.zoo --set torchvision --set timm --table docs/research/zoo.md  # checks and table
    python -m benchmarks.zoo --set torchvision --peer --table docs/research/zoo.md      # the comparison, too
    python -m benchmarks.zoo resnet18 timm:resnet10t --no-onnx                          # a few networks
    python -m benchmarks.zoo --table docs/research/zoo.md                               # the table alone

Every network is checked in a process of its own with a time limit (`zoo/check.py`), and compared in another
(`--peer`, `zoo/peer.py`; needs torch-pruning). Each adds one JSON line to the results file; what is there is
not done again, unless `--fresh` is given. Exit code 1 if one of the networks fails a check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jstc
from benchmarks import children
from benchmarks.zoo import names as zoo_names
from benchmarks.zoo import table as zoo_table
from benchmarks.zoo.record import message
from jstc.core import files
from jstc.ort.machine import environment

__all__ = ["load", "main", "run_part"]

_MODULES = {"check": "benchmarks.zoo.check", "peer": "benchmarks.zoo.peer"}
_LAST_LINES = 3


def load(path: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Environments, and what is known of each network: later lines of a results file add to earlier ones."""
    environments: list[dict[str, Any]] = []
    networks: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        document = json.loads(line)
        if "name" in document:
            networks.setdefault(document["name"], {}).update(document)
        else:
            environments.append(document)
    return environments, networks


def run_part(part: str, name: str, *, limit: float, arguments: list[str]) -> dict[str, Any]:
    """One network through `check` or `peer` in a process of its own: what it found, however it ended."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = children.command(_MODULES[part], name, str(result), *arguments)
        problem = _problem(command, limit)
        found: dict[str, Any] = files.read_json(result) if result.is_file() else {"failures": {}}
    stage = found.pop("stage", "start")
    if problem is not None:
        found["failures"][stage] = problem
        found.setdefault("seconds", round(limit, 2))
    return found


def _problem(command: list[str], limit: float) -> str | None:
    variables = children.environment(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    try:
        done = subprocess.run(
            command, timeout=limit, capture_output=True, text=True, env=variables, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {limit:g} s"
    except OSError as error:
        return message(error)
    if done.returncode == 0:
        return None
    said = " | ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
    return f"the process ended with {done.returncode}: {said}"


def _append(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")


def _forget(path: Path, names: list[str]) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line).get("name") not in names]
    if not any("name" in json.loads(line) for line in kept):
        kept = []
    files.write_text(path, "".join(f"{line}\n" for line in kept))


def _here() -> dict[str, Any]:
    found = environment()
    found["packages"]["jstc"] = jstc.__version__
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["packages"]["torch-pruning"] = metadata.version("torch-pruning")
    return found


def _work(names: list[str], options: argparse.Namespace) -> None:
    """Do what is missing, one network at a time."""
    _, known = load(options.results)
    command = shlex.join(["python", "-m", "benchmarks.zoo", *sys.argv[1:]])
    todo = [(n, p) for n in names for p in _parts(known.get(n, {}), peer=options.peer)]
    if todo:
        _append(options.results, {"environment": _here(), "command": command})
    for number, (name, part) in enumerate(todo, 1):
        arguments = ["--memory", str(options.memory)]
        if part == "check":
            arguments += ["--no-onnx"] if options.no_onnx else []
            found = run_part(part, name, limit=options.limit, arguments=arguments)
        else:
            arguments += ["--repeats", str(options.repeats)]
            found = run_part(part, name, limit=options.peer_limit, arguments=arguments)
            # Failures of the comparison are no failures of the network.
            found = {"peer": {**found.get("peer", {}), "failures": found["failures"]}}
        _append(options.results, {"name": name, **found})
        print(f"[{number}/{len(todo)}] {name}: {zoo_table.verdict(part, found)}", file=sys.stderr, flush=True)


def _parts(known: dict[str, Any], *, peer: bool) -> list[str]:
    missing = [] if "failures" in known else ["check"]
    return [*missing, "peer"] if peer and "peer" not in known else missing


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="networks, such as resnet18 or timm:resnet10t")
    parser.add_argument("--set", action="append", default=[], choices=zoo_names.SETS, dest="sets")
    parser.add_argument("--results", type=Path, default=Path("runs/zoo.jsonl"))
    parser.add_argument("--fresh", action="store_true", help="forget what is known of these networks")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for the checks of one network")
    parser.add_argument("--memory", type=float, default=16.0, help="GB for the process of one network")
    parser.add_argument("--no-onnx", action="store_true", help="leave the export out")
    parser.add_argument("--peer", action="store_true", help="compare with Torch-Pruning")
    parser.add_argument("--peer-limit", type=float, default=300.0, help="seconds for one comparison")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each tool")
    parser.add_argument("--table", type=Path, help="write the results to this Markdown file")
    options = parser.parse_args()
    if not options.names and not options.sets and options.table is None:
        parser.error("give names, --set or --table")
    return options


def main() -> int:
    """Exit code: 1 if a network fails a check."""
    options = _options()
    listed = [n for s in options.sets for n in zoo_names.names_of(s)]
    names = list(dict.fromkeys([*options.names, *listed]))
    if options.fresh:
        _forget(options.results, names)
    _work(names, options)
    environments, known = load(options.results)
    if options.table is not None:
        files.write_text(options.table, zoo_table.document(environments, known))
    failed = [n for n in names or known if known.get(n, {}).get("failures")]
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
