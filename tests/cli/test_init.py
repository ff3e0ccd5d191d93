"""Recipes that come with jstc: by name, and written out to start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jstc.errors import RecipeError
from jstc.recipe import loading
from tests.cli.conftest import Called

Command = Callable[..., Called]


def test_a_recipe_to_start_from_is_valid_and_commented(jstc_command: Command) -> None:
    called = jstc_command("init")
    assert (called.code, called.out) == (0, "your-network.yaml\n")
    assert "jstc run your-network.yaml" in called.err
    written = Path("your-network.yaml")
    assert written.read_text().count("#") > 10
    assert loading.load(written).weights == Path("weights.safetensors")


def test_any_that_comes_along_can_be_written_out(jstc_command: Command) -> None:
    assert jstc_command("init", "quickstart", "--out", "mine.yaml").code == 0
    assert Path("mine.yaml").read_bytes() == loading.shipped()["quickstart"].read_bytes()


def test_nothing_is_overwritten(jstc_command: Command) -> None:
    Path("quickstart.yaml").write_text("mine")
    Path("dangling.yaml").symlink_to("nowhere.yaml")
    assert jstc_command("init", "quickstart").code == 2
    assert jstc_command("init", "quickstart", "--out", "dangling.yaml").code == 2
    assert Path("quickstart.yaml").read_text() == "mine"
    assert not Path("nowhere.yaml").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("init", "quickstrat"), "did you mean 'quickstart'?"),
        (("init", "xyz"), "unknown recipe 'xyz'. Recipes that come with jstc:"),
        (("init", "--out", "no/such/r.yaml"), "no folder no/such"),
        (("run", "quickstrat"), "did you mean quickstart?"),
        (("run", "xyz"), "no recipe at xyz; jstc comes with"),
    ],
)
def test_names_that_are_none(jstc_command: Command, words: tuple[str, ...], told: str) -> None:
    called = jstc_command(*words)
    assert called.code == 2
    assert told in " ".join(called.err.split())


def test_every_recipe_that_comes_along_is_valid_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"quickstart", "your-network", "imagenet-resnet50"} <= loading.shipped().keys()
    for name, path in loading.shipped().items():
        assert loading.load(Path(name)) == loading.load(path)


def test_a_file_of_that_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("model: vgg16_bn\ndataset: digits\nflops: 0.25\n")
    assert loading.load(Path("quickstart")).model == "vgg16_bn"
    with pytest.raises(RecipeError):
        loading.load(Path("elsewhere/quickstart"))
