"""Pipes and devices in the place of files: named and refused by every reader, where they would never end."""

from __future__ import annotations

import ast
import socket
import subprocess
from pathlib import Path

import pytest

import jstc
from benchmarks import children
from jstc.core import files
from jstc.errors import DamagedError
from tests.helpers.children import environment

SECONDS = 120  # of all cases together, which take some
ROOT = Path(jstc.__file__).parent


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_every_reader_names_it(tmp_path: Path, kind: str) -> None:
    command = children.command("tests.robustness.irregular_readers", str(tmp_path), kind)
    variables = environment(OMP_NUM_THREADS="1")
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=SECONDS, env=variables
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, lines[-1:] + done.stderr.splitlines()[-3:]
    assert len(lines) > 40
    assert [line for line in lines if ": refused: " not in line or f" is a {kind}, not a" not in line] == []


def test_links_to_files_are_read_and_folders_and_sockets_are_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert files.read_text(tmp_path / "link", limit=9) == "x"
    with pytest.raises(DamagedError, match="is a directory, not a file"):
        files.read_bytes(tmp_path, limit=9)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(DamagedError, match="is a socket, not a file"):
            files.sha256(tmp_path / "s")
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "nothing")


# A module that opens files for reading asks `jstc.core.files` what they are.

READERS = {"read_text", "read_bytes", "load_file", "safe_open", "fromfile"}
READERS_OF = {
    "onnx": {"load"}, "torch": {"load"}, "np": {"load"}, "tarfile": {"open"}, "Image": {"open"},
    "pq": {"read_schema", "read_table", "ParquetFile"}, "onnxruntime": {"InferenceSession"},
    "os": {"open"}, "io": {"open"}, "shutil": {"copyfile"},
}  # fmt: skip
ASKS = {"require_regular", "open_regular", "require_file", "irregular"}
WITHOUT_ASKING = {
    "core/files.py": "it is who is asked",
    "cli/init.py": "recipes of the package itself",
    "ort/machine.py": "/proc and /sys",
    "ort/memory.py": "/proc",
    "ort/opened.py": "what onnxruntime has just written into a folder of our own",
    "latency/measure.py": "what onnxruntime has just written into a folder of our own",
    "cli/exit_codes.py": "the null device",
    "export/preprocess.py": "what has just been written",
    "export/precisions.py": "what has just been written into a folder of our own",
    "runs/stages/export.py": "what has just been written into a folder of our own",
}


def _opens_without_asking(text: str) -> list[str]:
    """What a module opens files with, or has a library do it, if it never asks what they are."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    asks = any(ast.unparse(call.func).split(".")[-1] in ASKS for call in calls)
    return [] if asks else [ast.unparse(call) for call in calls if _reads(call)]


def _reads(call: ast.Call) -> bool:
    place, _, name = ast.unparse(call.func).rpartition(".")
    if place == "files":  # of ours
        return False
    modes = {one.value for one in call.args if isinstance(one, ast.Constant)}
    return (
        name in READERS
        or name in READERS_OF.get(place, ())
        or (name == "open" and not {"r", "rb"}.isdisjoint(modes))
    )


def test_no_module_opens_files_without_asking() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): _opens_without_asking(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }
    assert {name: calls for name, calls in found.items() if calls and name not in WITHOUT_ASKING} == {}
    assert {name for name in WITHOUT_ASKING if not found[name]} <= {"core/files.py"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("def f(p):\n    return p.read_text()", 1),
        ("def f(p):\n    with p.open('rb') as x:\n        return x", 1),
        ("def f(p):\n    return torch.load(p)", 1),
        ("def f(p):\n    p.open('w')\n    p.open('ab')", 0),
        ("def f(p):\n    files.require_regular(p)\n    return torch.load(p)", 0),
        ("def f(p):\n    return files.read_text(p, limit=1)", 0),
    ],
)
def test_openings_are_found(text: str, number: int) -> None:
    assert len(_opens_without_asking(text)) == number
