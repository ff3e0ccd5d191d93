"""The distribution's name: pip installs ours, for another one is called jstc."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from jstc._version import DISTRIBUTION, install_command

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", ".github", "benchmarks", "docs", "jstc", "recipes", "scripts", "tests")
TEXTS = {".cfg", ".j2", ".json", ".md", ".py", ".sh", ".toml", ".yaml", ".yml", ""}
INSTALLS_JSTC = re.compile(r"\bpip3? install\b[^\n`&;|#]*[ '\"]jstc(?![\w/.-])")


def texts() -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    found = [path for path in (*ROOT.iterdir(), *inside) if path.is_file() and path.suffix in TEXTS]
    return [path for path in found if path != Path(__file__) and "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_project_has_the_name_that_messages_have(project: dict[str, Any]) -> None:
    assert project["name"] == DISTRIBUTION
    assert project["scripts"] == {"jstc": "jstc.cli:main"}
    assert install_command("timm") == "pip install 'joint-search-training[timm]'"


def test_extras_name_extras_of_this_distribution(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    listed = [requirement for group in extras.values() for requirement in group]
    own = [requirement for requirement in listed if requirement.startswith((DISTRIBUTION, "jstc"))]
    assert own and {re.sub(r"\[.*\]", "", requirement) for requirement in own} == {DISTRIBUTION}
    assert {re.sub(r".*\[(.*)\]", r"\1", requirement) for requirement in own} <= set(extras)


def test_messages_name_extras_that_there_are(project: dict[str, Any]) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "jstc").rglob("*.py"))
    named = set(re.findall(r"install_command\(['\"](\w+)['\"]\)", code))
    assert {"timm", "tensorboard"} <= named <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install jstc", True), ("pip install 'jstc[timm]'", True), ("`pip install -U jstc`", True),
        ('uv pip install -q "jstc>=0.1"', True), ("python -m pip install timm jstc", True),
        ("pip install 'joint-search-training[timm]'", False), ("pip install . && jstc run", False),
        ("pip install .\njstc run", False), ("pip install /opt/jstc/", False),
    ],
)  # fmt: skip
def test_what_counts_as_installing_somebody_elses(text: str, wrong: bool) -> None:
    assert bool(INSTALLS_JSTC.search(text)) == wrong


def test_no_text_installs_somebody_elses_package() -> None:
    assert len(texts()) > 200
    wrong = {path: INSTALLS_JSTC.findall(path.read_text(encoding="utf-8")) for path in texts()}
    assert {path: found for path, found in wrong.items() if found} == {}
