"""The architecture: imports point strictly down, and siblings do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jstc

ROOT = Path(jstc.__file__).parent
LAYERS = {
    # The ground that everything stands on
    "errors": -2, "reading": -1,
    # L0: small helpers of everybody
    "files": 0, "cache": 0, "progress": 0, "stopping": 0, "ranks": 0, "units": 0, "torchvision_import": 0,
    # L1: plain data
    "recipe": 1, "recipe_amount": 1, "recipe_settings": 1, "recipe_yaml": 1, "recipe_check": 1,
    "recipe_file": 1, "recipe_training": 1, "plan": 1,
    "channels": 2, "models": 2, "data": 2, "ort": 2,
    "train": 3, "latency": 3,
    "search": 4, "finetune": 4, "slim": 4, "export": 4, "bench": 4, "report": 4, "compare": 4,
    "pipeline": 5,
    "cli": 6, "__main__": 7,
}  # fmt: skip
# The loader of recipes is one room with several doors.
SAME_ROOM = {
    "recipe",
    "recipe_amount",
    "recipe_settings",
    "recipe_yaml",
    "recipe_check",
    "recipe_file",
    "recipe_training",
}
NO_TORCH = ("errors", "files", "reading", "cache", "progress", "ranks", "units", "plan", "recipe",
            "recipe_amount", "recipe_settings", "recipe_yaml", "recipe_check", "recipe_file",
            "recipe_training", "ort", "bench", "report", "compare", "cli")  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, only_at_import: bool = False):
    """Dotted names that the file imports; `if TYPE_CHECKING` counts, unless `only_at_import`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from _imported(_executed(tree) if only_at_import else ast.walk(tree), path)


def _imported(nodes, path: Path):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(tree, *, functions: bool = False):
    """Nodes that run when the module is imported, or ever, with `functions`; never `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or (not functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        yield node
        yield from _executed(node, functions=functions)


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
        if other is None or other == part or {other, part} <= SAME_ROOM:
            continue
        assert LAYERS[other] < LAYERS[part], (
            f"{path.name} (L{LAYERS[part]}) imports {name} (L{LAYERS[other]})"
        )


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in NO_TORCH], ids=lambda path: path.name)
def test_what_is_free_of_torch_stays_so(path):
    heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision", "timm", "fvcore"}
    assert not heavy


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) == "cli"], ids=lambda path: path.name)
def test_the_command_line_imports_only_what_is_light(path):
    allowed = {"jstc.cli", "jstc.errors", "jstc.progress", "jstc.units", "typer", "rich"}
    if path.name == "progress.py":  # loaded when there is progress to show
        allowed.add("rich.progress")
    for name in imports(path, only_at_import=True):
        standard = not name.startswith(
            ("jstc", "torch", "onnx", "numpy", "pydantic", "yaml", "rich", "typer")
        )
        assert standard or any(name == known or name.startswith(known + ".") for known in allowed), name


def module_graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, in functions too; `if TYPE_CHECKING` left out."""
    files = {_module_name(root, path): path for path in root.rglob("*.py")}
    graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = _imported(_executed(tree, functions=True), path)
        # `from a.b import c`: the module a.b.c if there is one, otherwise a name in a.b.
        found = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = found & set(files)
    return graph


def _module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The parts of the graph within which every module leads back to itself."""
    reached = {module: _reachable(graph, module) for module in graph}
    rings = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }
    return sorted(sorted(ring) for ring in rings)


def _reachable(graph: dict[str, set[str]], module: str) -> set[str]:
    found, waiting = set(), set(graph[module])
    while waiting:
        found |= waiting
        waiting = {far for near in waiting for far in graph[near]} - found
    return found


@pytest.mark.parametrize("part", ["channels", "train", "search", "export", "compare", "pipeline", "cli"])
def test_modules_do_not_import_each_other_in_a_circle(part):
    inside = f"jstc.{part}"
    modules = {
        name: found
        for name, found in module_graph(ROOT).items()
        if name == inside or name.startswith(inside + ".")
    }
    assert len(modules) > 3
    assert circles({name: found & set(modules) for name, found in modules.items()}) == []


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
    assert circles(module_graph(tmp_path / "p")) == [["p.a", "p.b", "p.c"], ["p.f"]]


def test_the_search_package_loads_nothing():
    # `jstc` imports it, to make it callable, and importing jstc is promised to be cheap.
    assert list(imports(ROOT / "search" / "__init__.py", only_at_import=True)) in (
        [],
        ["__future__.annotations"],
    )


def test_every_module_names_what_is_public():
    without = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if path.stat().st_size and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert [name for name in without if not name.endswith(("__init__.py", "__main__.py"))] == []
