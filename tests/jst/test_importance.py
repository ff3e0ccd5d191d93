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
from jstc.jst.round import RoundContext, train_round
from jstc.jst.spanning import ImageLooks, spanning
from jstc.jst.subnetwork import Target, cut, put_back
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
        ImageLooks(context.dataset.train, train.channels_last),
        images=search.importance_images,
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
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def test_scores_are_relative_to_the_mean_of_the_group(target: Target, make_recipe: Any) -> None:
    target.sensitivity.copy_(torch.arange(36.0))
    found = importance_of(make_recipe(TAYLOR)).scores(target)
    assert [scores.mean() for scores in found] == pytest.approx([1.0] * 3)
    assert found[1] == pytest.approx(torch.arange(8.0, 20.0).numpy() / 13.5)


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
    measured_ones = torch.cat([found[span(channels, "stem")], found[span(channels, "last")]])
    scale = 1.0 if "last_bn" in without else measured_ones.mean()
    torch.testing.assert_close(found[span(channels, "wide")], norms["wide"] * scale)
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
        return importance_of(make_recipe(changes)).num_images(dataset.train.num_images)

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
    torch.testing.assert_close(parts[0] + parts[1], measured(target, whole))


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


# Channel weights that the training teaches


@pytest.fixture
def trained(target: Target, plan: Plan, make_context: Any) -> Any:
    """A sub-network after a round that was asked for gradients, the gates being 1."""

    def make(**changes: Any) -> Any:
        context = make_context(GRADIENT | changes)
        target.alpha.fill_(1.0)
        sub = cut(target, plan, context.recipe.train)
        train_round(sub, context, 0)
        return sub

    return make


GRADIENT = {"search.importance": "gradient", "search.importance_images": 20}


def test_from_scratch_gradients_begin_with_norms_and_read_no_images(
    target: Target, make_recipe: Any, dataset: Dataset
) -> None:
    importance = importance_of(make_recipe(GRADIENT))
    assert importance.follows_training and not importance.trains_gates
    assert importance.num_images(dataset.train.num_images) == 0
    importance.prepare(target, ImageLooks(dataset.train, False), Silent())
    norms = target.channels.magnitude(target.network)
    for group in target.channels.groups:
        assert torch.equal(target.sensitivity[span(target.channels, group.name)], norms[group.name])


def test_the_scores_of_gradients_are_ranks(target: Target, make_recipe: Any) -> None:
    """From 0 to 1, however steeply the values fall."""
    target.sensitivity.copy_(torch.cat([torch.arange(8.0), 10.0 ** torch.arange(12.0), torch.ones(16)]))
    stem, wide, last = importance_of(make_recipe(GRADIENT)).scores(target)
    assert stem == pytest.approx([n / 7 for n in range(8)])
    assert wide == pytest.approx([n / 11 for n in range(12)])
    assert last == pytest.approx([n / 15 for n in range(15, -1, -1)])  # of equals the first comes first


def test_of_given_weights_gradients_begin_with_what_each_explains(
    target: Target, make_recipe: Any, dataset: Dataset
) -> None:
    importance = importance_of(make_recipe(GRADIENT | {"weights": "given.safetensors"}))
    assert importance.num_images(dataset.train.num_images) == 20
    importance.prepare(target, ImageLooks(dataset.train, False), Silent())
    before = target.sensitivity.clone()
    again = spanning(target, ImageLooks(dataset.train, False), images=20, progress=Silent())
    assert torch.equal(before, again) and before.std() > 0


def test_only_gradients_are_told_of_the_training(trained: Any) -> None:
    assert (trained().slopes > 0).all()
    for importance in ("magnitude", "taylor", "learned", "weighted_taylor"):
        assert not trained(**{"search.importance": importance}).slopes.any()


def test_a_round_is_the_same_whether_it_is_told_or_not(trained: Any) -> None:
    told = trained().tensors()
    plain = trained(**{"search.importance": "magnitude", "search.importance_images": 512}).tensors()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in told.items() if name != "gates.slopes")


def test_what_a_round_taught_reaches_the_ranking(target: Target, trained: Any, make_recipe: Any) -> None:
    """Half of the way, among the kept channels of a group; the others keep what they had."""
    target.sensitivity.copy_(torch.linspace(0.5, 1.5, 36))
    before, sub = target.sensitivity.clone(), trained()
    sub.slopes.zero_()
    index = target.index(sub.plan)
    wide = [position for position, channel in enumerate(index.tolist()) if 8 <= channel < 20]
    sub.slopes[wide] = torch.arange(1.0, len(wide) + 1)
    put_back(sub, target)
    kept = index[wide]
    mean = before[kept].mean()
    taught = sub.slopes[wide] / sub.slopes[wide].mean() * mean
    torch.testing.assert_close(target.sensitivity[kept], (before[kept] + taught) / 2)
    assert target.sensitivity[kept].mean() == pytest.approx(mean.item())
    others = torch.ones(36, dtype=torch.bool)
    others[kept] = False
    assert torch.equal(target.sensitivity[others], before[others])
    best = importance_of(make_recipe(GRADIENT)).scores(target)[1].argmax()
    assert 8 + best == kept[-1]


def test_channels_that_the_loss_does_not_feel_fall_behind(
    target: Target, trained: Any, make_recipe: Any, plan: Plan
) -> None:
    target.sensitivity.fill_(1.0)
    kept = plan.kept["wide"]
    with torch.no_grad():
        target.network.wide_bn.weight[kept[0]] = 0.0
        target.network.wide_bn.bias[kept[0]] = -9.0  # never passes the rectifier
    put_back(trained(), target)
    wide = importance_of(make_recipe(GRADIENT)).scores(target)[1]
    assert target.sensitivity[8 + kept[0]] == pytest.approx(0.5, abs=0.05)
    assert wide[kept[0]] == 0 == wide.min()


def test_a_search_that_learns_channel_weights_is_taken_up_as_it_was(
    run_search: Any, power_cut: Any, searched: Any, tmp_path: Path
) -> None:
    whole = searched(GRADIENT)
    with power_cut(3) as progress:
        run_search(tmp_path, GRADIENT, progress=progress)
    assert run_search(tmp_path, GRADIENT).files == whole.files
