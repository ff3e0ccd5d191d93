"""Files and functions stay short enough to be read; ruff holds their complexity."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import jstc
from benchmarks.structure.counts import functions, lines_of

ROOT = Path(jstc.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def test_files_are_chapters() -> None:
    assert len(FILES) > 100
    assert {path.name: lines_of(path) for path in FILES if lines_of(path) > MOST_LINES} == {}


def test_functions_fit_on_a_screen() -> None:
    """Arguments are not counted: those of a command are its options, with their help."""
    found = [each for path in FILES for each in functions(path)]
    assert len(found) > 1000
    assert [each.name for each in found if each.lines > MOST_LINES_OF_A_FUNCTION] == []


def test_docstrings_begin_with_their_own_noun_or_verb() -> None:
    """One that begins with "The same" is understood only with the one above in view."""
    begun = re.compile(r"(The same|That of|Those of|Of the|What is)\b")
    found = [
        f"{path.name}: {text.splitlines()[0]}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and begun.match(text := ast.get_docstring(node) or "")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(\n    a,\n    b,\n):\n    pass\n    pass\n", [("f", 2)]),
        ("class A:\n    def f(self):\n        def g():\n            pass\n        return g\n", [("A.f", 3)]),
        ('if True:\n    async def f():\n        """Text."""\n', [("f", 1)]),
    ],
)
def test_what_is_counted(tmp_path: Path, text: str, found: list[tuple[str, int]]) -> None:
    path = tmp_path / "file.py"
    path.write_text(text)
    assert [(each.name, each.lines) for each in functions(path)] == found
