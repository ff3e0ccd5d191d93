from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from jstc import bench, ort


def test_the_machine_is_named() -> None:
    found = bench.environment()
    assert found["python"] == platform.python_version()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["providers"]["cpu"] == "usable"
    assert {"torch", "onnx"} <= set(found["packages"])
    json.dumps(found)


def test_a_missing_provider_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "cuda_problem", lambda: "no NVIDIA driver was found")
    assert bench.environment()["providers"]["cuda"] == "no NVIDIA driver was found"
    monkeypatch.setattr(ort, "cuda_problem", lambda: None)
    assert bench.environment()["providers"]["cuda"] == "usable"


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("script", "gpus"),
    [("echo 'NVIDIA H100, PCIe, 580.1'", [{"name": "NVIDIA H100, PCIe", "driver": "580.1"}]),
     ("echo 'NVIDIA-SMI has failed'; exit 9", [])],
)  # fmt: skip
def test_gpus_are_read_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpus: list[dict[str, str]]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert bench.environment()["gpus"] == gpus
