"""A network that is quickly trained; and a run whose stages only leave traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jstc.core.progress import Silent
from jstc.models import user_code
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.runs import commands, preflight, stages
from jstc.runs.stages import Stage
from jstc.runs.workspace import StageContext

INPUTS = {
    "baseline": (), "search": (), "finetune": ("search",), "slim": ("finetune",), "export": ("slim",),
    "bench": ("export", "baseline"), "report": ("bench",),
}  # fmt: skip
RECIPE = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"}, ["baseline=true"])


NETWORK = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))

def make(num_classes):
    return Small(num_classes)
"""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small network of the user's own."""
    path = tmp_path_factory.mktemp("network") / "small.py"
    path.write_text(NETWORK)
    user_code.trust(f"{path}:make")
    return f"{path}:make"


class Messages(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def messages() -> Messages:
    """A progress that keeps the messages it was told, as `texts`."""
    return Messages()


class House:
    """A run directory whose stages write one file each, and go wrong on demand."""

    def __init__(self, path: Path, messages: Messages) -> None:
        self.path = path
        self.ran: list[str] = []
        self.faults: dict[str, Callable[[], object]] = {}
        self.messages = messages

    def table(self, recipe: Recipe) -> list[Stage]:
        return [
            Stage(name, self.function(name), inputs, ("summary.json",) if name == "report" else ())
            for name, inputs in INPUTS.items()
        ]

    def function(self, name: str) -> Callable[[StageContext], dict[str, Any] | None]:
        def run(context: StageContext) -> dict[str, Any] | None:
            self.ran.append(name)
            context.folder.mkdir(exist_ok=True)
            (context.folder / "work").write_text(name)
            context.progress.start(name, 1, "step")
            context.progress.update(1)
            if name in self.faults:
                self.faults.pop(name)()
            if name == "report":
                (context.path / "summary.json").write_text("{}")
                return None
            return {"figure": 1}

        return run

    def run(self, **options: Any) -> list[str]:
        self.ran.clear()
        commands.run(RECIPE, out=self.path, command="jstc run x.yaml", progress=self.messages, **options)
        return self.ran

    def stage(self, name: str, **options: Any) -> list[str]:
        self.ran.clear()
        commands.run_stage(self.path, name, recipe=RECIPE, progress=self.messages, **options)
        return self.ran

    def states(self) -> dict[str, str]:
        manifest = json.loads((self.path / "manifest.json").read_text())
        return {name: record["state"] for name, record in manifest["stages"].items()}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: Messages) -> House:
    """A `House` without a preflight."""
    house = House(tmp_path / "run", messages)
    monkeypatch.setattr(stages, "table", house.table)
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    return house
