"""The architecture: imports point strictly down, and siblings do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jstc
from benchmarks.structure.imports import circles, imported, module_graph

ROOT = Path(jstc.__file__).parent
LAYERS = {
    # The ground that everything stands on
    "_version": -1, "errors": -1,
    # L0: small helpers of everybody
    "core": 0,
    # L1: plain data
    "recipe": 1, "plan": 1, "summary": 1,
    "channels": 2, "models": 2, "data": 2, "ort": 2,
    "train": 3, "latency": 3, "soundness": 3,
    "jst": 4, "finetune": 4, "slim": 4, "export": 4, "report": 4, "gate": 4,
    "runs": 5,
    "api": 6, "joint_search": 6, "cli": 6, "__main__": 7,
}  # fmt: skip
NO_TORCH = ("_version", "errors", "core", "recipe", "plan", "summary", "ort", "report", "gate", "cli")
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, only_at_import: bool = False):
    """Dotted names that the file imports; `if TYPE_CHECKING` counts, unless `only_at_import`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from imported(_executed(tree) if only_at_import else ast.walk(tree), path)


def _executed(tree):
    """Nodes that run when the module is imported: neither functions nor `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from _executed(node)


def ours(name: str) -> str | None:
    """The part of jstc that a dotted name belongs to."""
    words = name.split(".")
    return words[1] if words[0] == "jstc" and len(words) > 1 and words[1] in LAYERS else None


def test_every_part_has_its_layer():
    assert {part_of(path) for path in FILES} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    part = part_of(path)
    for name in imports(path):
        other = ours(name)
        if other is None or other == part:
            continue
        assert LAYERS[other] < LAYERS[part], (
            f"{path.name} (L{LAYERS[part]}) imports {name} (L{LAYERS[other]})"
        )


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in NO_TORCH], ids=lambda path: path.name)
def test_what_is_free_of_torch_stays_so(path):
    heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision", "timm", "fvcore"}
    assert not heavy


def loaded_with(module: str) -> set[str]:
    """The module and those of jstc that importing it imports, directly or not."""
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        path = ROOT.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name.startswith("jstc") and name not in found and path.is_file():
            found.add(name)
            names = set(imports(path, only_at_import=True))
            waiting |= names | {each.rpartition(".")[0] for each in names}
    return found


EARLY = sorted(loaded_with("jstc.cli") | loaded_with("jstc.cli.app"))


def test_a_command_loads_what_it_shows_with_late():
    assert {"jstc.cli.app", "jstc.cli.run", "jstc.cli.options", "jstc.core.processes"} <= set(EARLY)
    assert not {"jstc.cli.results", "jstc.cli.console", "jstc.recipe.schema"} & set(EARLY)


@pytest.mark.parametrize("module", EARLY)
def test_the_command_line_starts_with_only_what_is_light(module):
    assert module in ("jstc", "jstc.recipe", "jstc.recipe.amounts") or module.split(".")[1] in (
        "cli", "core", "errors", "_version", "plan"
    )  # fmt: skip
    path = ROOT.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    heavy = ("torch", "onnx", "onnxruntime", "numpy", "pydantic", "yaml", "rich", "jinja2", "matplotlib")
    assert not {name.split(".")[0] for name in imports(path, only_at_import=True)} & set(heavy)


def test_modules_do_not_import_each_other_in_a_circle():
    graph = module_graph(ROOT)
    assert len(graph) > 100
    assert circles(graph) == []


def test_circles_are_found(tmp_path):
    texts = {
        "__init__": "",
        "a": "from p import b",
        "b": "def f():\n    from p.c import name",
        "c": "import p.a",
        "d": "from p.a import name\nimport p.e",
        "e": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.d import name",
        "f": "import p.f",
    }
    (tmp_path / "p").mkdir()
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert circles(module_graph(tmp_path / "p")) == [["p.a", "p.b", "p.c"], ["p.d", "p.e"], ["p.f"]]


def test_every_module_names_what_is_public():
    without = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if path.stat().st_size and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert [name for name in without if not name.endswith(("__init__.py", "__main__.py"))] == []
