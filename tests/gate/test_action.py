"""The action and its example: what they name is there, and what they pass on is understood."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jstc.cli.app import app
from jstc.gate import Settings, compare, load_side

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "compare"

pytestmark = pytest.mark.skipif(not (ROOT / "action.yml").exists(), reason="not a checkout of the repository")


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    return read(ROOT / "action.yml")


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return read(ROOT / ".github" / "workflows" / "compare-example.yml")


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in document["jobs"].values() for step in job["steps"]]


def test_the_inputs_that_are_declared_are_those_that_are_used(action: dict[str, Any]) -> None:
    used = set(re.findall(r"inputs\.([a-z-]+)", yaml.safe_dump(action["runs"])))
    assert used == set(action["inputs"])
    assert action["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in action["runs"]["steps"])


def test_no_input_reaches_the_shell_as_code(action: dict[str, Any]) -> None:
    assert not [step["name"] for step in action["runs"]["steps"] if "${{" in step["run"]]


def test_every_variable_of_the_script_is_set(action: dict[str, Any]) -> None:
    for step in action["runs"]["steps"]:
        assert {name for name in step["env"] if f"${name}" not in step["run"]} == set()
    assert action["outputs"]["verdict"]["value"] == "${{ steps.compare.outputs.verdict }}"


def test_the_options_it_passes_on_exist(action: dict[str, Any]) -> None:
    command = typer.main.get_command(app).commands["compare"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    script = action["runs"]["steps"][1]["run"]
    assert set(re.findall(r"--[a-z][a-z-]+", script)) <= known
    limits = {name.removeprefix("--") for name in known if name.startswith("--max-")}
    assert limits <= set(action["inputs"])


def test_the_manual_names_every_option_and_no_other() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app).commands["compare"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    told = set(re.findall(r"(?<![a-z-])--[a-z][a-z-]+", text))
    elsewhere = {"--workflow", "--branch", "--status", "--limit", "--jq", "--name", "--dir", "--body-file"}
    assert told - elsewhere <= known
    assert {name for name in known if name.startswith("--")} - told == {"--quiet", "--debug"}


def test_it_installs_what_the_project_itself_asks_for(action: dict[str, Any]) -> None:
    wanted = re.findall(r'"([A-Za-z][^"$]*[<>][^"]*)"', action["runs"]["steps"][0]["run"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(wanted) == 8
    assert set(wanted) <= {requirement.split(";")[0].strip() for requirement in project}


def test_no_registry_is_named(action: dict[str, Any], workflow: dict[str, Any]) -> None:
    assert not re.search(r"https?://|index-url", yaml.safe_dump(action) + yaml.safe_dump(workflow))


def test_the_example_uses_what_there_is(action: dict[str, Any], workflow: dict[str, Any]) -> None:
    used = [step for step in steps(workflow) if step.get("uses") == "./"]
    assert len(used) == 2
    for step in used:
        assert set(step["with"]) <= set(action["inputs"])
        assert {"base", "new"} <= set(step["with"])
    paths = set(re.findall(r"docs/examples/[a-z/]+\.json", yaml.safe_dump(workflow)))
    assert len(paths) == 3
    assert all((ROOT / path).is_file() for path in paths)
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(("new", "verdict"), [("new", "ok"), ("worse", "fails")])
def test_the_examples_are_what_they_are_called(new: str, verdict: str) -> None:
    found = compare(
        load_side(EXAMPLES / "base.json"), load_side(EXAMPLES / f"{new}.json"), settings=Settings()
    )
    assert found.verdict == verdict


LIGHT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"{name} is not installed by the action", name=name)
sys.meta_path.insert(0, Refuse())
import jstc.ort.bench  # what times the files of run directories
from jstc.cli import main
main(sys.argv[2:])
"""


def test_what_it_leaves_out_is_not_needed(action: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    script = action["runs"]["steps"][0]["run"]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in project}
    modules = {"scikit-learn": "sklearn", "pillow": "PIL"}
    absent = [modules.get(name, name) for name in names if f'"{name}' not in script]
    assert {"torch", "matplotlib", "sklearn"} <= set(absent)
    words = ["compare", str(EXAMPLES / "base.json"), str(EXAMPLES / "new.json"), "--json"]
    command = [sys.executable, "-c", LIGHT, " ".join(absent), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def run_script(action: dict[str, Any], tmp_path: Path) -> Any:
    """Runs the step as the runner does, with a `jstc` that notes its words and ends with `code`."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    step = action["runs"]["steps"][1]
    (tmp_path / "step.sh").write_text(step["run"])

    def run(code: int, **given: str) -> tuple[int, str, list[str]]:
        fake = tmp_path / "bin" / "jstc"
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit {code}\n')
        fake.chmod(0o755)
        output = tmp_path / "output"
        output.write_text("")
        defaults = {
            name.upper().replace("-", "_"): one.get("default", "") for name, one in action["inputs"].items()
        }
        path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
        environment = defaults | given | {"PATH": path, "GITHUB_OUTPUT": str(output)}
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(tmp_path / "step.sh")]
        done = subprocess.run(command, env=environment, cwd=tmp_path, check=False)
        words = (tmp_path / "words").read_text().splitlines()
        return done.returncode, output.read_text(), words

    return run


@pytest.mark.parametrize(("code", "verdict"), [(0, "ok"), (3, "fails"), (2, "error"), (1, "error")])
def test_the_exit_code_becomes_the_verdict(run_script: Any, code: int, verdict: str) -> None:
    found, output, _ = run_script(code, BASE="a b", NEW="$(c)")
    assert (found, output) == (code, f"verdict={verdict}\n")


def test_a_gate_can_be_left_to_the_reader_of_the_verdict_but_not_an_error(run_script: Any) -> None:
    assert run_script(3, BASE="a", NEW="b", FAIL="false")[:2] == (0, "verdict=fails\n")
    assert run_script(2, BASE="a", NEW="b", FAIL="false")[:2] == (2, "verdict=error\n")


def test_inputs_become_words(run_script: Any) -> None:
    assert run_script(0, BASE="a b", NEW="$(c)")[2] == ["compare", "--", "a b", "$(c)"]
    given = {"MAX_SLOWDOWN": "5 %", "MEASURE": "false", "JUNIT": "x.xml", "ALLOW_MISSING": "true"}
    words = run_script(0, BASE="a", NEW="b", **given)[2]
    options = ["--max-slowdown", "5 %", "--junit", "x.xml", "--allow-missing", "--no-measure"]
    assert words == ["compare", *options, "--", "a", "b"]
    assert "--measure" in run_script(0, BASE="a", NEW="b", MEASURE="true")[2]
