"""Channels of a trained network rank by what it would lose with each."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jstc.channels import ChannelMap, analyse
from jstc.core.progress import Silent
from jstc.data.base import Dataset
from jstc.jst.importance import importance_of, taylor
from jstc.jst.round import RoundContext
from jstc.jst.subnetwork import Target, cut
from jstc.plan import Plan
from jstc.train import collectives
from jstc.train.recalibration import recalibrate

TAYLOR = {"search.importance": "taylor", "search.importance_images": 20}


@pytest.fixture
def target(target: Target, dataset: Dataset) -> Target:
    """With statistics of its images, so that no group is dead."""
    recalibrate(target.network, dataset.train.ordered(32), images=96)
    return target


def measured(target: Target, context: RoundContext) -> Tensor:
    """What `taylor` finds with the settings of a search."""
    search, train = context.recipe.search, context.recipe.train
    return taylor(
        target,
        context.dataset.train,
        images=search.importance_images,
        channels_last=train.channels_last,
        progress=Silent(),
    )


def span(channels: ChannelMap, name: str) -> slice:
    group = next(group for group in channels.groups if group.name == name)
    return slice(group.start, group.start + group.width)


def test_it_is_the_change_of_the_loss_with_the_gate(
    target: Target, make_context: Any, dataset: Dataset
) -> None:
    """By differences instead of gradients, batch by batch, in float64."""
    context = make_context(TAYLOR)
    found = measured(target, context)
    whole = cut(target, Plan.full(target.channels.widths), context.recipe.train).gated.double().eval()
    step, expected = 1e-5, torch.zeros_like(found, dtype=torch.float64)
    for images, labels in dataset.train.ordered(8, limit=20):
        for channel in range(len(found)):
            losses = []
            for sign in (1, -1):
                own = copy.deepcopy(whole)
                with torch.no_grad():
                    own.alpha[channel] *= 1 + sign * step
                losses.append(F.cross_entropy(own(images.double()), labels))
            expected[channel] += (losses[0] - losses[1]).abs() / (2 * step)
    for group in target.channels.groups:
        ours = expected[span(target.channels, group.name)]
        ours /= ours.mean()
        assert found[span(target.channels, group.name)].mean() == pytest.approx(1.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_channel_that_nothing_listens_to_is_worth_nothing(target: Target, make_context: Any) -> None:
    with torch.no_grad():
        target.network.join.weight[:, [3, 7]] = 0
    wide = measured(target, make_context(TAYLOR))[span(target.channels, "wide")]
    assert wide[[3, 7]].tolist() == [0, 0] and (wide > 0).sum() == 10


@pytest.mark.parametrize("without", [("wide_bn",), ("stem_bn", "wide_bn", "join_bn", "last_bn")])
def test_groups_that_have_no_place_for_a_gate_rank_by_their_norms(
    network: Any, make_context: Any, without: tuple[str, ...]
) -> None:
    for name in without:
        norm = getattr(network, name)
        norm.affine, norm.weight, norm.bias = False, None, None
    channels = analyse(network, torch.zeros(1, 2, 8, 8))
    context = make_context(TAYLOR)
    found = measured(Target.new(network, channels, context.recipe.train), context)
    norms = channels.magnitude(network)
    assert torch.equal(found[span(channels, "wide")], norms["wide"])
    assert torch.equal(found[span(channels, "last")], norms["last"]) == ("last_bn" in without)


def test_nothing_of_the_target_changes(target: Target, make_context: Any) -> None:
    before = {name: tensor.clone() for name, tensor in target.network.state_dict().items()}
    gates = target.alpha.clone()
    measured(target, make_context(TAYLOR))
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.network.state_dict().items())
    assert torch.equal(target.alpha, gates)
    assert all(p.grad is None and p.requires_grad for p in target.network.parameters())


def test_as_many_images_as_there_are(make_recipe: Any, dataset: Dataset) -> None:
    def number(changes: dict[str, Any]) -> int:
        return importance_of(make_recipe(changes)).num_images(dataset.train)

    assert number(TAYLOR) == 20
    assert number({**TAYLOR, "search.importance_images": 10**6}) == dataset.train.num_images
    assert number({}) == 0


def test_processes_share_the_images_and_come_to_the_same(
    target: Target, make_context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of which each sees every other image, without the exchange between them."""
    whole = make_context(TAYLOR | {"search.importance_images": 32})
    context, seen = whole, []
    train = context.dataset.train

    class Counted:
        num_images = train.num_images

        def ordered(self, size: int, **options: Any) -> Any:
            for images, labels in train.ordered(size, **options):
                seen.append((size, len(labels)))
                yield images, labels

    context = dataclasses.replace(context, dataset=dataclasses.replace(context.dataset, train=Counted()))
    parts = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(collectives, "world", lambda: 2)
            patch.setattr(collectives, "rank", lambda number=rank: number)
            patch.setattr(collectives, "copy_from_first", lambda tensors: None)
            patch.setattr(collectives, "average", lambda tensor: parts.append(tensor.clone()))
            measured(target, context)
    assert seen == [(16, 8), (16, 8)] * 2
    one = measured(target, whole)
    for group in target.channels.groups:
        both = (parts[0] + parts[1])[span(target.channels, group.name)]
        torch.testing.assert_close(both / both.mean(), one[span(target.channels, group.name)])


def test_a_search_that_ranks_by_it_says_what_it_read(searched: Any) -> None:
    assert searched(TAYLOR).result["taylor_images"] == 20
    assert "taylor_images" not in searched().result


def test_a_search_broken_off_keeps_what_it_ranked_by(
    run_search: Any, power_cut: Any, searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target network has been trained when it is taken up again: measured anew, it would be another."""
    whole = searched(TAYLOR)
    with power_cut(5) as progress:  # of six rounds; there are three batches for the ranking
        run_search(tmp_path, TAYLOR, progress=progress)
    monkeypatch.setattr("jstc.jst.importance.taylor", None)
    assert run_search(tmp_path, TAYLOR).files == whole.files
