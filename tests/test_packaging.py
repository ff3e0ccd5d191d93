"""The install without CUDA and the image: what they name exists, and is what the documents say.

Neither is installed or built here: that takes gigabytes, and a docker daemon.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CPU = "uv pip install --torch-backend cpu --override requirements-cpu.txt ."


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return found


def instructions(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, each time that it stands there."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_overrides_replace_what_needs_a_gpu_and_nothing_else() -> None:
    lines = [line for line in read("requirements-cpu.txt").splitlines() if line and not line.startswith("#")]
    left_out, instead = map(Requirement, lines)
    declared = [
        Requirement(text) for text in tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    ]
    by_name = {one.name: one for one in declared}
    assert left_out.name == "onnxruntime-gpu"
    assert left_out.marker is not None
    for platform in ("linux", "win32", "darwin"):
        assert not left_out.marker.evaluate({"sys_platform": platform})
    assert (instead.name, instead.marker) == ("onnxruntime", None)
    assert instead.specifier == by_name["onnxruntime"].specifier == by_name["onnxruntime-gpu"].specifier
    heavy = [one.name for one in declared if one.extras & {"cuda", "cudnn"}]
    assert heavy == [left_out.name]  # what is left of CUDA is torch's, which --torch-backend chooses


def test_the_guide_has_the_install_without_cuda() -> None:
    assert CPU in read("docs/guide.md")


def test_the_image_is_made_of_files_that_exist_and_are_not_ignored() -> None:
    copied = [
        word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert copied
    kept = re.findall(r"^!(.*)$", read(".dockerignore"), re.MULTILINE)
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)
    assert {project()["readme"], *project()["license-files"], "recipes", "jstc"} <= set(copied)


def test_the_image_installs_as_the_documents_say() -> None:
    plain = DOCKERFILE.replace("--system --no-cache ", "").replace("--no-cache-dir ", "").replace("\\\n", "")
    assert CPU in plain
    assert "pip install .;" in plain
    assert "pip install ." in read("README.md")


def test_the_image_runs_the_command_as_nobody_special() -> None:
    order = re.findall(r"^([A-Z]+) ", DOCKERFILE, re.MULTILINE)
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")
    assert instructions("USER") == ["jstc"]
    assert instructions("ENTRYPOINT") == ['["jstc"]']
    assert list(project()["scripts"]) == ["jstc"]


def test_the_lines_that_start_the_image_are_those_of_the_guide() -> None:
    comments = [line.removeprefix("#").strip() for line in DOCKERFILE.splitlines() if line.startswith("#")]
    lines = [line for line in comments if line.startswith("docker ")]
    assert len(lines) == 2
    assert all(line in read("docs/guide.md") for line in lines)
    assert "run quickstart" in lines[1]
    assert yaml.safe_load(read("recipes/quickstart.yaml"))["dataset"] == "digits"  # nothing to be mounted
    assert "--ipc=host" in shlex.split(lines[1])
