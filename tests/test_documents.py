"""Documents: what they name exists, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import jstc
from jstc.recipe.schema import Recipe, SearchSettings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
JOURNALS = ROOT / "docs" / "research"
KEYS = re.compile(r"(?<![\w./-])(search|train|finetune|input|export|bench|checkpoint|latency_on)\.([a-z]\w*)")
PATHS = re.compile(r"(?<![\w./-])(?:jstc|tests|benchmarks|scripts|recipes)/[\w./*-]*[\w*/]")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """Text without its fenced code."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a Markdown file, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if JOURNALS not in path.parents], ids=name)
def test_files_that_are_named_exist(path: Path) -> None:
    """Journals are left out: they name what was there when they were written."""
    named = set(PATHS.findall(path.read_text(encoding="utf-8")))
    assert [file for file in sorted(named) if not any(ROOT.glob(file.rstrip("/")))] == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if JOURNALS not in path.parents], ids=name)
def test_recipe_keys_that_are_named_exist(path: Path) -> None:
    found = set(KEYS.findall(path.read_text(encoding="utf-8")))
    sections = {section: Recipe.model_fields[section].annotation.model_fields for section, _ in found}
    files = {"html", "json", "jsonl", "md", "py", "parquet", "safetensors", "yaml", "yml"}
    methods = {("search", method) for method in vars(jstc.JointSearch)}  # `search = jstc.JointSearch(...)`
    odd = {(a, b) for a, b in found if b not in files and b not in sections[a]}
    assert odd - methods == set()


def test_every_key_of_the_search_is_in_the_method() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert [key for key in SearchSettings.model_fields if not re.search(rf"`(search\.)?{key}`", text)] == []


def test_the_picture_of_the_layers_has_every_part() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("```")[1]
    folders = {path.parent.name for path in (ROOT / "jstc").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "jstc").glob("[a-z]*.py")}
    shown = set(re.findall(r"^ ([a-z_]+) ", picture, flags=re.MULTILINE))
    assert shown == folders | files


def test_the_glossary_and_the_architecture_name_files() -> None:
    for page in ("glossary.md", "architecture.md"):
        assert len(set(PATHS.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))) > 20


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_page_has_a_place_on_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [page for entry in site["nav"] for page in entry.values()]
    listed = [page for entry in pages for page in ([entry] if isinstance(entry, str) else _files(entry))]
    found = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == found
    assert len(listed) == len(set(listed))


def _files(section: list[dict[str, str]]) -> list[str]:
    return [file for entry in section for file in entry.values()]
