"""The stage that emits the slim network: it answers as the finetuned one did, or nothing goes on."""

from __future__ import annotations

import pytest
import torch

from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import StageError
from jstc.recipe import loading
from jstc.runs.stages.slim import slim
from jstc.runs.workspace import StageContext, Workspace
from jstc.train import handover, loop

FLAGS = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}
SETTINGS = ["input.image_size=8", "device=cpu", "threads=1"]


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace(loading.from_flags(FLAGS, SETTINGS))


@pytest.fixture
def emit(workspace, tmp_path):
    """Runs the stage after a finetune that counted `more` right answers more than its network has."""

    def run(*, more: int = 0, images: int | None = None, change=lambda network: None):
        channels = workspace.channels
        plan = channels.random_plan(flops=0.5, seed=0)
        gated = channels.gated(channels.slice(workspace.new_target(), plan), plan)
        with torch.no_grad():
            change(gated.network)
        plan.save(tmp_path / "search" / "plan.json")
        handover.save_subnetwork(
            tmp_path / "finetune" / "subnetwork.safetensors", gated, optimizer={}, plan=plan, step=1
        )
        found = loop.evaluate(gated.network, workspace.dataset.test.ordered(128))
        right = round(found.accuracy * found.images) + more
        figures = {"accuracy": right / found.images, "test_images": images or found.images, "device": "cpu"}
        files.write_json(tmp_path / "finetune" / "result.json", figures)
        return slim(StageContext(workspace, tmp_path, tmp_path / "slim", Silent())), right / found.images

    return run


def test_it_has_the_finetuned_networks_accuracy(emit):
    result, accuracy = emit()
    assert result["accuracy"] == accuracy
    assert result["undecided"] < 5
    assert result["unreached"]["image_size"] == [8, 8]


def test_one_right_answer_more_or_less_is_refused(emit, tmp_path):
    for more in (1, -1):
        with pytest.raises(StageError, match=r"the slim network has .* the finetuned one had") as caught:
            emit(more=more, change=lambda network: network.linear.weight.mul_(1000))  # no two scores alike
        assert caught.value.exit_code == 1
    assert "rounding decides on none of them" in str(caught.value)


def test_where_rounding_decides_answers_may_differ(emit):
    result, _ = emit(more=1, change=lambda network: network.linear.weight.mul_(1e-6))
    assert result["undecided"] > 100


def test_accuracies_of_other_images_are_not_compared(emit):
    result, accuracy = emit(more=40, images=1000)
    assert result["accuracy"] < accuracy
