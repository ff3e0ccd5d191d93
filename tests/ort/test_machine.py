from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from jstc.ort import machine, sessions


def test_the_machine_is_named() -> None:
    found = machine.environment()
    assert found["python"] == platform.python_version()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["providers"]["cpu"] == "usable"
    assert {"torch", "onnx"} <= set(found["packages"])
    json.dumps(found)


def test_a_missing_provider_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "no NVIDIA driver was found")
    assert machine.environment()["providers"]["cuda"] == "no NVIDIA driver was found"
    monkeypatch.setattr(sessions, "cuda_problem", lambda: None)
    assert machine.environment()["providers"]["cuda"] == "usable"


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("script", "gpus"),
    [("echo 'NVIDIA H100, PCIe, 580.1, 81559 MiB'",
      [{"name": "NVIDIA H100, PCIe", "driver": "580.1", "memory": "81559 MiB"}]),
     ("echo 'NVIDIA-SMI has failed'; exit 9", [])],
)  # fmt: skip
def test_gpus_are_read_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpus: list[dict[str, str]]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.environment()["gpus"] == gpus


def machine_at(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_instruction_sets_that_matter_are_named(tmp_path: Path) -> None:
    info = "processor : 0\nflags\t\t: fpu sse2 amx_int8 avx2 avx512_vnni"
    assert machine.flags(machine_at(tmp_path, {"proc/cpuinfo": info})) == ["avx2", "avx512_vnni", "amx_int8"]
    assert machine.flags(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("files", "turbo"),
    [({"cpufreq/boost": "1"}, True), ({"intel_pstate/no_turbo": "1"}, False), ({}, None)],
)
def test_governor_and_turbo(tmp_path: Path, files: dict[str, str], turbo: bool | None) -> None:
    base = {"cpu0/cpufreq/scaling_governor": "powersave", "cpu0/cpufreq/scaling_max_freq": "3500000"}
    root = machine_at(tmp_path, {f"sys/devices/system/cpu/{k}": v for k, v in (base | files).items()})
    assert machine.frequency(root) == {"governor": "powersave", "max_mhz": 3500, "turbo": turbo}


@pytest.mark.parametrize(
    ("files", "cores", "memory_gb"),
    [
        ({"proc/self/cgroup": "0::/box", "sys/fs/cgroup/box/cpu.max": "150000 100000",
          "sys/fs/cgroup/box/memory.max": "4000000000"}, 1.5, 4.0),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000",
          "sys/fs/cgroup/memory.max": "max"}, None, None),
        ({"proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box",
          "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
          "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712"}, 2.0, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_limits_of_a_container(
    tmp_path: Path, files: dict[str, str], cores: float | None, memory_gb: float | None
) -> None:
    root = machine_at(tmp_path, files)
    assert (machine.cpu_limit(root), machine.memory_limit_gb(root)) == (cores, memory_gb)
