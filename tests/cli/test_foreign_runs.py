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


@pytest.fixture
def recipe(tmp_path):
    """A recipe with a network of somebody's; its factory is called by another name."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "r.yaml").write_text("model: net.py:Smal\ndataset: digits\nflops: 0.5\n")
    return "r.yaml"


@pytest.mark.parametrize("words", [["--model", "net.py:Smal"], ["--set", "model=net.py:Smal"]])
def test_code_that_a_recipe_names_is_run_when_the_command_line_names_it(
    jstc_command, stranger, recipe, tmp_path, words
):
    stranger()
    called = jstc_command("run", recipe, "--out", "run")
    assert called.code == 2 and called.err.endswith("add --model net.py:Smal\n"), called.err
    called = jstc_command("run", recipe, "--out", "run", "--set", "seed=1")
    assert called.code == 2 and called.err.endswith("add --model net.py:Smal\n"), called.err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()
    called = jstc_command("run", recipe, "--out", "run", *words)
    assert called.code == 2 and "has no function 'Smal'" in called.err
    assert (tmp_path / "ran").exists()
    called = jstc_command("run", recipe, "--out", "run")  # from now on it is known
    assert "has no function 'Smal'" in called.err


@pytest.mark.parametrize(
    "pack",
    [
        lambda run: None,
        lambda run: (run / "manifest.json").unlink(),
        lambda run: (run / "manifest.json").write_text("{}"),
        lambda run: [
            path.unlink() for path in run.iterdir() if path.name != "recipe.yaml" and path.is_file()
        ],
        lambda run: (run / "sub").mkdir() or (run / "recipe.yaml").rename(run / "sub" / "recipe.yaml"),
    ],
    ids=["whole", "without a record", "with another record", "bare", "deeper"],
)
@pytest.mark.parametrize("out", ["run", "elsewhere"])
def test_whoever_packs_a_run_does_not_decide_whose_code_is_run(
    jstc_command, searched, stranger, tmp_path, pack, out
):
    pack(searched)
    stranger()
    (found,) = searched.rglob("recipe.yaml")
    called = jstc_command("run", found, "--out", out)
    assert called.code == 2 and called.out == ""
    assert "add --model net.py:Small" in called.err, called.err
    assert not (tmp_path / "ran").exists()


def test_a_run_of_another_version_beside_is_left_out_with_a_word(jstc_command, searched, tmp_path):
    (tmp_path / "runs").mkdir()
    searched.rename(tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "later").mkdir()
    (tmp_path / "runs" / "later" / "manifest.json").write_text('{"kind": "jstc run", "schema": 99}')
    called = jstc_command("report", "--json")
    assert called.code == 0 and json.loads(called.out)["model"] == "net.py:Small"
    assert called.err.startswith("runs/later is left out: ")
