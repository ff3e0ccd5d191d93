"""The size of files and functions, and what is imported where."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.structure.imports import circles, module_graph, users

__all__ = ["Counts", "Function", "definitions", "functions", "lines_of", "measure"]

_UNTYPED = "dict[str, Any]"


@dataclass(frozen=True)
class Counts:
    """A checkout in figures; files, modules and imports are those of `jstc/`."""

    files: int
    median_lines: float
    largest_lines: int
    packages: int
    with_one_user: int
    imports_in_functions: int
    untyped_dicts: int
    circles: int
    longest_function: int
    product_lines: int
    test_lines: int
    benchmark_lines: int


@dataclass(frozen=True)
class Function:
    """A function or method: its file, its name there (`Class.method`), the lines below its arguments."""

    path: Path
    name: str
    lines: int


def measure(root: Path) -> Counts:
    """The figures of the checkout at `root`."""
    paths = sorted((root / "jstc").rglob("*.py"))
    lines = [lines_of(path) for path in paths]
    graph = module_graph(root / "jstc")
    return Counts(
        files=len(paths),
        median_lines=statistics.median(lines),
        largest_lines=max(lines),
        packages=sum(path.name == "__init__.py" for path in paths),
        with_one_user=sum(len(found) == 1 for found in users(graph).values()),
        imports_in_functions=sum(_inner_imports(path) for path in paths),
        untyped_dicts=sum(_UNTYPED in line for path in paths for line in _text(path).splitlines()),
        circles=len(circles(graph)),
        longest_function=max(each.lines for path in paths for each in functions(path)),
        product_lines=sum(lines),
        test_lines=_lines_below(root / "tests"),
        benchmark_lines=_lines_below(root / "benchmarks"),
    )


def lines_of(path: Path) -> int:
    """Lines of a file, empty ones and comments too."""
    return len(_text(path).splitlines())


def functions(path: Path) -> Iterator[Function]:
    """Functions and methods of a file; functions inside functions are part of these."""
    yield from _functions(ast.parse(_text(path)), path, "")


def definitions(path: Path) -> Iterator[str]:
    """Names of the functions, methods (`Class.method`) and classes of a file."""
    tree = ast.parse(_text(path))
    yield from (each.name for each in _functions(tree, path, ""))
    yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))


def _functions(node: ast.AST, path: Path, prefix: str) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, path, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            assert child.end_lineno is not None
            yield Function(path, prefix + child.name, child.end_lineno - child.body[0].lineno + 1)
        elif isinstance(child, ast.If | ast.Try):
            yield from _functions(child, path, prefix)


def _inner_imports(path: Path) -> int:
    inside = set()
    for function in ast.walk(ast.parse(_text(path))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found = (node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom))
            inside |= {node.lineno for node in found}
    return len(inside)


def _lines_below(folder: Path) -> int:
    return sum(lines_of(path) for path in folder.rglob("*.py"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
