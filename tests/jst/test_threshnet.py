"""ThreshNet: what it draws, and what it learns from what its draws earned."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.jst.threshnet import Choice, ThreshNet, Vector, describe, taper
from jstc.recipe.schema import SearchSettings
from tests.helpers.tiny_search import spaces_of, tiny_recipe

GROUPS = 12


def states(groups: int = GROUPS, seed: int = 0) -> Vector:
    """Depth from 0 to 1, and what else a group's state says, by chance."""
    random = np.random.default_rng(seed)
    others = random.normal(size=(groups, 5))
    return np.column_stack([np.linspace(0, 1, groups), others])


def make(groups: int = GROUPS, **changes: Any) -> ThreshNet:
    return ThreshNet(states(groups), **changes)


def goal(seed: int) -> Vector:
    """Hidden best offsets: they rise and fall with depth, and every group differs a little by itself."""
    random, depth = np.random.default_rng(seed), np.linspace(0, 1, GROUPS)
    best = 0.6 * np.sin(2 * np.pi * (random.random() + 0.7 * depth)) + 0.1 * random.normal(size=GROUPS)
    centred: Vector = best - best.mean()
    return centred


def lost(offsets: Vector, best: Vector) -> float:
    return float(((offsets - best) ** 2).sum())


def play(net: ThreshNet, best: Vector, *, rewards: int, seed: int, generation: int = 8) -> None:
    """A bandit with noisy rewards, in generations that are coarse at first."""
    random = np.random.default_rng(seed)
    turns = rewards // generation
    for turn in range(turns):
        sigma, coarse = 0.3 ** (turn / max(1, turns - 1)), turn < 0.4 * turns
        choices = net.draw(generation, random, sigma=sigma, coarse=coarse)
        earned = [-lost(net.offsets(each), best) + 0.05 * random.normal() for each in choices]
        net.learn(choices, earned)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_good_offsets_within_64_rewards(seed: int) -> None:
    net, best = make(lr=SearchSettings().threshnet_lr), goal(seed)
    before = lost(net.offsets(), best)
    play(net, best, rewards=64, seed=seed)
    assert lost(net.offsets(), best) < 0.5 * before


def test_more_rewards_teach_more() -> None:
    def left(rewards: int) -> float:
        nets = [(make(), goal(seed)) for seed in range(6)]
        for seed, (net, best) in enumerate(nets):
            play(net, best, rewards=rewards, seed=seed)
        return float(np.mean([lost(net.offsets(), best) for net, best in nets]))

    assert left(160) < 0.7 * left(32)


def test_draws_come_in_pairs_on_both_sides_of_the_weights() -> None:
    net = make(start=np.linspace(0.3, -0.3, GROUPS))
    net.settle(Choice(np.full(13, 0.1), np.linspace(-1, 1, GROUPS)))
    drawn = net.draw(6, np.random.default_rng(0), sigma=1.0)
    for one, other in zip(drawn[::2], drawn[1::2], strict=True):
        assert one.own + other.own == pytest.approx(2 * net.likeliest.own)
        assert one.shared + other.shared == pytest.approx(2 * net.likeliest.shared)
        assert net.offsets(one) + net.offsets(other) == pytest.approx(2 * net.offsets())
        assert np.abs(net.offsets(one) - net.offsets()).max() > 0.1
    assert len(net.draw(5, np.random.default_rng(0), sigma=1.0)) == 5


def test_draws_are_as_wide_as_sigma_says_and_those_of_one_generator_are_alike() -> None:
    net = make()
    wide, narrow = (net.draw(40, np.random.default_rng(0), sigma=sigma) for sigma in (1.0, 0.25))
    for one, other in zip(wide, narrow, strict=True):
        assert 0.25 * net.offsets(one) == pytest.approx(net.offsets(other))
    spread = np.std([net.offsets(each) for each in net.draw(400, np.random.default_rng(1), sigma=1.0)])
    assert 0.6 < spread < 0.9  # 0.8, less the common part that the projection takes


def correlation(net: ThreshNet, apart: int, *, coarse: bool) -> float:
    """Of the offsets of groups so far apart in depth, over many draws."""
    drawn = np.array(
        [net.offsets(c) for c in net.draw(2000, np.random.default_rng(2), sigma=1.0, coarse=coarse)]
    )
    pairs = [np.corrcoef(drawn[:, i], drawn[:, i + apart])[0, 1] for i in range(GROUPS - apart)]
    return float(np.mean(pairs))


def test_coarse_draws_move_neighbours_together() -> None:
    net = ThreshNet(np.column_stack([np.linspace(0, 1, GROUPS), np.zeros((GROUPS, 5))]))
    near, far = (correlation(net, apart, coarse=True) for apart in (1, 6))
    fine = correlation(net, 1, coarse=False)
    assert near > fine + 0.08
    assert near > far + 0.2


def test_groups_of_equal_states_move_together_by_the_shared_weights_and_apart_by_their_own() -> None:
    seen = states()
    seen[7] = seen[2]
    net = ThreshNet(seen)
    shared = net.offsets(Choice(np.linspace(-1, 1, 13), np.zeros(GROUPS)))
    assert shared[7] == pytest.approx(shared[2])
    assert len(set(shared.round(6))) == GROUPS - 1
    own = np.zeros(GROUPS)
    own[7] = 1.0
    assert net.offsets(Choice(np.zeros(13), own))[[2, 7]] == pytest.approx([-1 / GROUPS, 1 - 1 / GROUPS])


def test_without_perturbation_one_group_moves_at_a_time() -> None:
    net = make()
    tried = net.one_by_one(2 * GROUPS + 2, 0, sigma=1.0)
    for turn, choice in enumerate(tried):
        moved = np.flatnonzero(choice.own)
        assert moved.tolist() == [turn // 2 % GROUPS]
        assert np.sign(choice.own[moved]) == (1 if turn % 2 == 0 else -1)
        assert not choice.shared.any()
    later = net.one_by_one(4, 6, sigma=1.0)
    assert all((a.own == b.own).all() for a, b in zip(later, tried[6:], strict=False))
    assert (net.one_by_one(2, 0, sigma=0.5)[0].own == 0.5 * tried[0].own).all()


def test_the_start_is_added_to_every_offset_and_what_all_share_is_nothing() -> None:
    start = np.linspace(1, 3, GROUPS)
    assert make(start=start).offsets() == pytest.approx(start - 2)
    assert make().offsets().tolist() == [0.0] * GROUPS
    net = make(start=start)
    common = Choice(np.zeros(13), np.full(GROUPS, 5.0))
    assert net.offsets(common) == pytest.approx(net.offsets())


def test_the_start_can_be_taken_away_again() -> None:
    net = make(start=np.linspace(1, 3, GROUPS))
    net.settle(net.draw(1, np.random.default_rng(0), sigma=1.0)[0])
    assert net.offsets(net.even) == pytest.approx(np.zeros(GROUPS), abs=1e-12)


@pytest.mark.parametrize("lr", [0.25, 1.0])
def test_it_goes_so_much_of_the_way_to_the_best_quarter(lr: float) -> None:
    net = make(lr=lr)
    choices = net.draw(8, np.random.default_rng(0), sigma=1.0)
    assert net.learn(choices, [0.1, 0.9, 0.2, 0.3, 0.8, 0.0, 0.1, 0.2]) > 1
    best = lr * (net.offsets(choices[1]) + net.offsets(choices[4])) / 2
    assert net.offsets() == pytest.approx(best)


def test_only_the_order_of_what_choices_earned_counts() -> None:
    found = []
    for shift, scale in ((0.0, 1.0), (-7.0, 1.0), (0.0, 0.01)):
        net = make()
        choices = net.draw(8, np.random.default_rng(0), sigma=1.0)
        largest = net.learn(choices, [shift + scale * reward for reward in (3, 1, 4, 1.5, 9, 2.6, 5, 3.5)])
        found.append((largest, net.offsets()))
    for largest, offsets in found[1:]:
        assert largest == pytest.approx(found[0][0])
        assert (offsets == found[0][1]).all()


@pytest.mark.parametrize("number", [1, 8])
def test_equal_rewards_teach_nothing(number: int) -> None:
    net = make()
    for seed in range(3):
        choices = net.draw(number, np.random.default_rng(seed), sigma=1.0)
        assert net.learn(choices, [0.5] * number) == 0.0
    assert net.offsets().tolist() == [0.0] * GROUPS


def test_a_single_reward_is_compared_with_those_before_it() -> None:
    net, [choice] = make(), make().draw(1, np.random.default_rng(0), sigma=1.0)
    assert net.learn([choice], [0.5]) == 0.0  # nothing to compare with
    assert not net.likeliest.own.any()
    assert net.learn([choice], [0.6]) > 0
    towards = float(net.offsets() @ net.offsets(choice))
    assert towards > 0
    assert net.learn([choice], [0.2]) < 0
    assert float(net.offsets() @ net.offsets(choice)) < towards


def test_a_reward_a_little_above_the_one_before_is_no_great_advantage() -> None:
    """The spread of a few rewards is theirs, not one that began at zero; and its scale does not count."""
    found = []
    for scale in (1.0, 0.01):
        net, [choice] = make(), make().draw(1, np.random.default_rng(0), sigma=1.0)
        found.append([net.learn([choice], [scale * r]) for r in (0.5, 0.51, 0.49, 0.51, 0.5)])
    assert found[0][1] == pytest.approx(1.0)
    assert max(map(abs, found[0])) < 2
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("rewards", [0, 3, 24])
def test_it_goes_on_exactly_where_its_state_was_taken(rewards: int) -> None:
    net, other, best = make(start=goal(4)), make(start=goal(4)), goal(0)
    single = net.draw(3, np.random.default_rng(7), sigma=1.0)[:rewards]
    for number, choice in enumerate(single):
        net.learn([choice], [0.1 * number])
    play(net, best, rewards=rewards, seed=0)
    play(other, best, rewards=16, seed=5)  # what it learned itself must be gone
    tensors, figures = net.state()
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, list(figures))
    for each in (net, other):
        play(each, best, rewards=16, seed=2)
        each.learn(each.draw(1, np.random.default_rng(3), sigma=1.0), [0.7])
    assert (net.offsets() == other.offsets()).all()
    assert net.state()[1] == other.state()[1]
    assert all(map(torch.equal, net.state()[0].values(), other.state()[0].values()))


def test_a_choice_goes_through_a_checkpoint_as_it_is() -> None:
    [choice] = make().draw(1, np.random.default_rng(0), sigma=1.0)
    again = Choice.of({name: tensor.clone() for name, tensor in choice.tensors().items()})
    assert (again.shared == choice.shared).all()
    assert (again.own == choice.own).all()


def test_a_network_without_groups_has_a_policy_too() -> None:
    net = ThreshNet(np.zeros((0, 6)), start=np.zeros(0))
    choices = [*net.draw(4, np.random.default_rng(0), sigma=1.0), *net.one_by_one(2, 0, sigma=1.0)]
    assert [net.offsets(choice).shape for choice in [*choices, None]] == [(0,)] * 7
    net.learn(choices, [float(number) for number in range(6)])
    assert net.offsets().shape == (0,)


# What it is told of the groups


class Chain(nn.Module):
    """Three layers without residuals, ever wider on ever smaller images."""

    def __init__(self) -> None:
        super().__init__()
        widths = itertools.pairwise((2, 32, 64, 128))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in self.convs)
        self.fc = nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(norm(conv(x)).relu(), 2)
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def chain() -> ChannelMap:
    return analyse(Chain(), torch.zeros(1, 2, 8, 8))


def test_the_states_tell_what_a_group_is_like(channels: ChannelMap) -> None:
    depth, width, stream, share, params, worth = describe(channels, np.array([1.0, 2.0, 4.0])).T
    assert depth.tolist() == [0, 0.5, 1]
    assert width == pytest.approx(np.log([8, 12, 16]))
    assert stream.tolist() == [1, 0, 0]
    assert share == pytest.approx(list(channels.flops_share.values()))
    assert params[2] > params[0] and params[2] > params[1]  # its maps are a quarter as large
    assert np.diff(worth) == pytest.approx(np.log([2, 2]))
    assert describe(channels)[:, 5].tolist() == [0, 0, 0]


def test_channels_worth_nothing_are_described_too(channels: ChannelMap) -> None:
    assert np.isfinite(describe(channels, np.zeros(3))).all()


def test_the_taper_narrows_where_channels_cost_many_parameters_per_flop(chain: ChannelMap) -> None:
    found = taper(chain)
    assert found.mean() == pytest.approx(0)
    assert (np.diff(found) < 0).all()


def test_at_equal_flops_a_tapered_network_has_fewer_parameters(chain: ChannelMap) -> None:
    [space] = spaces_of(chain, tiny_recipe({"flops": 0.4, "channels.round_to": 1}))
    order = [np.arange(group.width) for group in chain.groups]
    costs = []
    for offsets in (np.zeros(3), taper(chain)):
        levels = [
            np.log((np.arange(group.width) + 0.5) / group.width) - by
            for group, by in zip(chain.groups, offsets, strict=True)
        ]
        costs.append(chain.cost(space.plan(order, levels)))
    assert costs[1].params < 0.98 * costs[0].params
    assert costs[1].flops == pytest.approx(costs[0].flops, rel=0.03)
