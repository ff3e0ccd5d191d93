"""The structure of a checkout: what is counted, and journeys that lead through functions that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.children import ROOT
from benchmarks.structure import journeys
from benchmarks.structure.__main__ import table
from benchmarks.structure.counts import measure
from benchmarks.structure.journeys import JOURNEYS, JourneyError, files_of

TEXTS = {
    "jstc/__init__.py": "",
    "jstc/a.py":
        "from jstc import b\nimport jstc.c\n\ndef f():\n    import os\n    from jstc.b import g\n    pass\n",
    "jstc/b.py":
        "def g() -> dict[str, Any]:\n    pass\n\nclass C:\n    def m(self):\n        import jstc.a\n",
    "jstc/c/__init__.py": "from jstc.b import g\n",
    "tests/test_a.py": "1\n2\n",
    "benchmarks/x.py": "1\n",
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_what_is_counted(checkout: Path) -> None:
    found = measure(checkout)
    assert (found.files, found.median_lines, found.largest_lines, found.packages) == (4, 3.5, 7, 2)
    assert (found.with_one_user, found.imports_in_functions, found.untyped_dicts) == (2, 3, 1)  # a and c
    assert (found.circles, found.longest_function) == (1, 3)
    assert (found.product_lines, found.test_lines, found.benchmark_lines) == (14, 2, 1)


def test_a_step_leads_to_the_file_that_defines_it(checkout: Path) -> None:
    found = files_of(checkout, ("f", "C.m", "C", "b:g"))
    assert [path.name for path in found] == ["a.py", "b.py"]


@pytest.mark.parametrize(("step", "text"), [("h", "nowhere"), ("a:g", "nowhere"), ("m", "nowhere")])
def test_a_step_that_leads_nowhere_is_an_error(checkout: Path, step: str, text: str) -> None:
    with pytest.raises(JourneyError, match=f"{step} should be defined in one file; it is in {text}"):
        files_of(checkout, (step,))


def test_a_step_that_leads_to_two_places_is_an_error(checkout: Path) -> None:
    (checkout / "jstc" / "d.py").write_text("def f():\n    pass\n")
    with pytest.raises(JourneyError, match=r"it is in jstc/a\.py, jstc/d\.py"):
        files_of(checkout, ("f",))


@pytest.mark.parametrize("name", JOURNEYS)
def test_journeys_lead_through_todays_code(name: str) -> None:
    assert len(files_of(ROOT, JOURNEYS[name])) > 5


def test_two_checkouts_stand_side_by_side(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journeys, "JOURNEYS", {"one": ("f", "C.m")})
    lines = table([checkout, checkout])
    assert lines[0].split() == ["files", "4", "4"]
    assert lines[-1].split() == ["files", "of", "one", "2", "2"]
