"""The graph of imports of a package, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["circles", "imported", "module_graph", "users"]

Graph = dict[str, set[str]]


def module_graph(root: Path) -> Graph:
    """Module -> modules of the package in `root` that it imports, in functions and for types too."""
    files = {_module_name(root, path): path for path in sorted(root.rglob("*.py"))}
    graph = {}
    for module, path in files.items():
        names = imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path)
        # `from a.b import c`: the module a.b.c if there is one, otherwise a name in a.b.
        found = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = found & set(files)
    return graph


def imported(nodes: Iterable[ast.AST], path: Path) -> Iterator[str]:
    """Dotted names that these nodes of a file import: `from a import b` gives a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def users(graph: Graph) -> Graph:
    """Module -> the other modules that import it."""
    return {module: {other for other in graph if module in graph[other] - {other}} for module in graph}


def circles(graph: Graph) -> list[list[str]]:
    """The parts of the graph within which every module leads back to itself."""
    reached = {module: _reachable(graph, module) for module in graph}
    rings = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }
    return sorted(sorted(ring) for ring in rings)


def _reachable(graph: Graph, module: str) -> set[str]:
    found: set[str] = set()
    waiting = set(graph[module])
    while waiting:
        found |= waiting
        waiting = {far for near in waiting for far in graph[near]} - found
    return found
