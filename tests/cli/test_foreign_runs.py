"""A run directory from elsewhere runs no code of its author's, unless the command line names it."""

from __future__ import annotations

import json

import pytest

NETWORK = """
import pathlib
import torch
from torch import nn

pathlib.Path(__file__).with_name("ran").touch()

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))
"""
SETTINGS = [
    "device=cpu", "threads=1", "input.image_size=8", "search.rounds=1", "search.steps_per_round=1",
    "search.eval_images=20", "search.recalibration_images=32", "finetune.epochs=1",
    "finetune.steps_per_epoch=1", "export.parity_images=8",
]  # fmt: skip


@pytest.fixture
def searched(jstc_command, tmp_path):
    """A searched run of a network of somebody's own, as this user and nobody else has made it."""
    (tmp_path / "net.py").write_text(NETWORK)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["net.py:Small", "--dataset", "digits", "--flops", "0.6", "--out", "run"]
    called = jstc_command("search", *words, *settings)
    assert called.code == 0, called.err
    (tmp_path / "ran").unlink()
    return tmp_path / "run"


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """From here on this is another user's machine."""
    from jstc.models import user_code

    def become():
        monkeypatch.setattr(user_code, "_trusted", set())
        monkeypatch.setenv("JSTC_CACHE", str(tmp_path / "strangers-cache"))

    return become


def test_ones_own_runs_go_on_and_those_of_others_ask(jstc_command, searched, stranger, tmp_path):
    assert jstc_command("slim", "run").code == 0
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    stranger()
    for words in (
        ["export", "run"],
        ["bench", "run"],
        ["finetune", "run", "--fresh"],
        ["run", "run/recipe.yaml"],
    ):
        called = jstc_command(*words)
        assert called.code == 2 and called.out == ""
        assert called.err.startswith("error: building this network runs code, 'net.py:Small'"), called.err
        assert called.err.endswith("add --model net.py:Small\n")
    for words in (["report", "run"], ["eval", "run"], ["export", "run", "--model", "os.py:abort"]):
        assert "Traceback" not in jstc_command(*words).err
    assert not (tmp_path / "ran").exists()
    assert jstc_command("export", "run", "--model", "net.py:Small").code == 0
    assert (tmp_path / "ran").exists()


def test_a_slim_network_that_names_other_code_than_the_recipe_does_not_run_it(
    jstc_command, searched, tmp_path
):
    assert jstc_command("slim", "run").code == 0
    (tmp_path / "evil.py").write_text(NETWORK.replace('"ran"', '"evil-ran"'))
    spec = searched / "slim" / "model.json"
    document = json.loads(spec.read_text())
    document["model"]["name"] = "evil.py:Small"
    spec.write_text(json.dumps(document))
    _put_on_record(searched, "slim", "slim/model.json")
    called = jstc_command("export", "run")
    assert called.code == 2 and "is built by running 'evil.py:Small'" in called.err, called.err
    assert not (tmp_path / "evil-ran").exists()


def _put_on_record(run, stage, name):
    from jstc.core import files

    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"][stage]["artifacts"][name] = files.sha256(run / name)
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_a_recipe_of_ones_own_needs_no_word(jstc_command, stranger, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "r.yaml").write_text("model: net.py:Smal\ndataset: digits\nflops: 0.5\n")
    called = jstc_command("run", "r.yaml", "--out", "run")
    assert called.code == 2 and "has no function 'Smal'" in called.err
    assert (tmp_path / "ran").exists()
