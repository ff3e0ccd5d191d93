"""Two processes, started once for all tests here: starting them takes longer than what they do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import children, two_processes

TIMEOUT = 300


def rank_environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    return children.environment() | {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def checks() -> ModuleType:
    """Checks for this process, which is alone."""
    return two_processes


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written that ran the checks."""
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    program = [sys.executable, "-P", "-m", two_processes.__name__, str(folder)]
    pair = [subprocess.Popen(program, env=rank_environment(rank, 2, port)) for rank in (0, 1)]
    try:
        codes = [process.wait(TIMEOUT) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert codes == [0, 0]
    return folder


@pytest.fixture(scope="session")
def outcomes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def both(outcomes: list[dict[str, Any]]) -> Callable[[str], list[Any]]:
    """What each of the two found in a check, by its name."""

    def find(name: str) -> list[Any]:
        for outcome in outcomes:
            assert "error" not in outcome[name], outcome[name]["error"]
        return [outcome[name]["found"] for outcome in outcomes]

    return find
