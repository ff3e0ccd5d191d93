"""The search says beforehand where a large part of the weights can learn nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from jstc.core.progress import Silent
from jstc.recipe import loading
from jstc.runs.stages import train
from jstc.runs.workspace import StageContext, Workspace


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(("pixels", "said"), [(2, True), (16, False)])
def test_weights_that_see_only_padding_are_told_of_before_the_training(
    tmp_path: Path, pixels: int, said: bool
) -> None:
    flags = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}
    settings = [f"input.image_size={pixels}", "device=cpu", "threads=1"]
    workspace, heard = Workspace(loading.from_flags(flags, settings)), Heard()
    train.tell_unused(StageContext(workspace, tmp_path, tmp_path, heard), workspace.new_target())
    expected = [
        "83 % of the weights see only padding and learn nothing; a larger input.image_size than 2x2, or a "
        "smaller network, would use them"
    ]
    assert heard.said == (expected if said else [])
