"""A run whose stages only leave traces."""

from __future__ import annotations

import json

import pytest

from jstc import recipe_file
from jstc.pipeline import chain, preflight, stages
from jstc.pipeline.stages import Stage
from jstc.progress import Silent

INPUTS = {
    "baseline": (), "search": (), "finetune": ("search",), "slim": ("finetune",), "export": ("slim",),
    "bench": ("export", "baseline"), "report": ("bench",),
}  # fmt: skip
RECIPE = recipe_file.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"}, ["baseline=true"])


class Messages(Silent):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


class House:
    """A run directory whose stages write one file each, and go wrong on demand."""

    def __init__(self, path):
        self.path = path
        self.ran = []
        self.faults = {}
        self.messages = Messages()

    def table(self, recipe):
        return [
            Stage(name, self.function(name), inputs, ("summary.json",) if name == "report" else ())
            for name, inputs in INPUTS.items()
        ]

    def function(self, name):
        def run(context):
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

    def run(self, **options):
        self.ran.clear()
        chain.run(RECIPE, out=self.path, command="jstc run x.yaml", progress=self.messages, **options)
        return self.ran

    def stage(self, name, **options):
        self.ran.clear()
        chain.run_stage(self.path, name, recipe=RECIPE, progress=self.messages, **options)
        return self.ran

    def states(self):
        manifest = json.loads((self.path / "manifest.json").read_text())
        return {name: record["state"] for name, record in manifest["stages"].items()}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A `House` without a preflight."""
    house = House(tmp_path / "run")
    monkeypatch.setattr(stages, "table", house.table)
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    return house
