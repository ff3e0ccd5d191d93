from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.jst import space
from jstc.jst.threshnet import FEATURES, Choice, ThreshNet, describe
from jstc.recipe.schema import SearchSettings

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def make(groups: int = 3, **changes: Any) -> ThreshNet:
    return ThreshNet(groups, GRID, **{"start": 0.6, "lr": 0.05, "entropy_bonus": 0.3, "seed": 0} | changes)


def states(groups: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(groups, FEATURES, generator=torch.Generator().manual_seed(seed))


def chances(net: ThreshNet, seen: Tensor, draws: int = 400) -> Tensor:
    """How often each threshold is drawn, [groups, grid]."""
    generator = torch.Generator().manual_seed(9)
    drawn = torch.stack([net.choose(seen, generator).index for _ in range(draws)])
    return torch.nn.functional.one_hot(drawn, len(GRID)).double().mean(0)


def play(net: ThreshNet, seen: Tensor, best: Tensor, *, steps: int, seed: int, group: int = 1) -> None:
    """A bandit: what is lost is the distance to hidden best thresholds, and the reward is noisy.

    Each of the steps learns from a `group` of choices.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        choices = [net.choose(seen, generator) for _ in range(group)]
        lost = [float((net.grid[choice.index] - net.grid[best]).abs().sum()) for choice in choices]
        noise = 0.1 * torch.randn(group, generator=generator)
        net.learn(choices, [0.6 - each + float(n) for each, n in zip(lost, noise, strict=True)])


def lost_by(net: ThreshNet, seen: Tensor, best: Tensor) -> float:
    """Distance to the best threshold, mean over draws and groups; 0.2 or more when nothing is learned."""
    distances = (net.grid[None] - net.grid[best][:, None]).abs()
    return float((chances(net, seen) * distances).sum(1).mean())


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_thresholds_that_earn_most(seed: int) -> None:
    net, seen = make(seed=seed), states(seed=seed)
    best = torch.randint(len(GRID), (3,), generator=torch.Generator().manual_seed(seed + 50))
    play(net, seen, best, steps=450, seed=seed)
    assert net.thresholds(net.choose(seen, None)) == pytest.approx([GRID[b] for b in best.tolist()])
    sure = chances(net, seen).gather(1, best[:, None])
    assert sure.min() > 0.6
    assert sure.mean() > 0.85


def mean_loss(*, judged: int, group: int, **settings: float) -> float:
    """What is still lost after so many plans were judged, over six bandits."""
    losses = []
    for seed in range(6):
        net, seen = make(seed=seed, **settings), states(seed=seed)
        best = torch.randint(len(GRID), (3,), generator=torch.Generator().manual_seed(seed + 50))
        play(net, seen, best, steps=judged // group, seed=seed, group=group)
        losses.append(lost_by(net, seen, best))
    return sum(losses) / len(losses)


def test_candidates_judged_against_each_other_teach_more_than_a_moving_baseline() -> None:
    """At the same rate and from the same number of judged plans."""
    settings = {"lr": 0.3, "entropy_bonus": 0.01}
    alone = mean_loss(judged=100, group=1, **settings)
    assert mean_loss(judged=100, group=4, **settings) < 0.6 * alone


def test_little_is_lost_with_the_settings_of_a_recipe_that_says_nothing() -> None:
    """The policy may close on a neighbour of the best threshold, not further off."""
    search = SearchSettings()
    settings = {"lr": search.threshnet_lr, "entropy_bonus": search.entropy_bonus}
    assert mean_loss(judged=160, group=search.candidates, **settings) < 0.08


def test_groups_that_look_the_same_are_told_apart() -> None:
    net, seen, best = make(groups=2, lr=0.1), states(1).repeat(2, 1), torch.tensor([0, 6])
    play(net, seen, best, steps=450, seed=1)
    assert net.choose(seen, None).index.tolist() == [0, 6]


def test_what_some_groups_earned_hardly_moves_the_others() -> None:
    """What all groups have in common has no effect: the projection onto the budget takes it away."""
    net, seen = make(groups=9, entropy_bonus=0.0, lr=0.3), states(9)
    better, worse = torch.full((9,), 3), torch.full((9,), 3)
    better[:3], worse[3:6] = 4, 2
    before = net.own.detach() + 0
    for _ in range(5):
        net.learn([Choice(seen, better), Choice(seen, worse)], [0.6, 0.5])
    with torch.no_grad():
        change = (net._logits(seen) - before).softmax(-1) - 1 / len(GRID)
    assert (change[:3, 4] > 0.2).all()
    assert (change[3:6, 2] < -0.05).all()
    assert change[6:].abs().max() < 0.05


@pytest.mark.parametrize("start", [0.3, 0.6, 0.85])
def test_at_first_the_thresholds_next_to_the_start_are_likely_in_every_group(start: float) -> None:
    found = chances(make(start=start), states(), 3000)
    away = (torch.tensor(GRID) - start).abs() / 0.1
    expected = (-1.5 * away.double()).softmax(0)
    assert torch.allclose(found, expected.expand(3, 7), atol=0.03)


def test_the_advantage_is_what_a_reward_is_above_those_before() -> None:
    net = make()
    choice = net.choose(states(), torch.Generator().manual_seed(0))
    assert net.learn([choice], [0.5]) == 0.0  # nothing to compare with
    assert net.learn([choice], [0.6]) > 0
    assert net.learn([choice], [0.4]) < 0
    assert net.learn([choice], [0.9]) > 0


def test_a_reward_a_little_above_the_one_before_is_no_great_advantage() -> None:
    """The spread of a few rewards is theirs, not one that began at zero."""
    net = make()
    choice = net.choose(states(), None)
    found = [net.learn([choice], [reward]) for reward in (0.5, 0.51, 0.49, 0.51, 0.5)]
    assert found[1] == pytest.approx(1.0)
    assert max(map(abs, found)) < 2


def test_every_budget_has_a_baseline_of_its_own() -> None:
    net = make()
    choice = net.choose(states(), None)
    assert [net.learn([choice], [reward], budget) for budget, reward in enumerate((0.9, 0.3))] == [0.0, 0.0]
    assert net.learn([choice], [0.4], 1) > 0
    assert net.learn([choice], [0.8], 0) < 0


@pytest.mark.parametrize("better", [0, 1])
def test_of_two_choices_the_policy_moves_to_the_better(better: int) -> None:
    net, seen = make(entropy_bonus=0.0), states()
    choices = [Choice(seen, torch.tensor([1, 4, 6])), Choice(seen, torch.tensor([3, 0, 2]))]
    before = [log_chances(net, choice) for choice in choices]
    assert net.learn(choices, [0.5, 0.6] if better else [0.6, 0.5]) == pytest.approx(1.0)
    change = [log_chances(net, choice) - old for choice, old in zip(choices, before, strict=True)]
    assert (change[better] > 0).all()
    assert (change[1 - better] < 0).all()


def test_what_choices_earned_is_compared_with_each_other_only() -> None:
    """Neither earlier rewards nor what all of them have in common count, nor does the scale."""
    seen, found = states(), []
    choices = [make().choose(seen, torch.Generator().manual_seed(n)) for n in range(3)]
    for past, shift, scale in ((0.0, 0.0, 1.0), (9.0, -7.0, 1.0), (-9.0, 0.0, 0.01)):
        net = make(entropy_bonus=0.0)
        net.learn(choices[:1], [past])  # a baseline only
        largest = net.learn(choices, [shift + scale * reward for reward in (0.2, 0.1, 0.6)])
        found.append((largest, torch.cat([log_chances(net, choice) for choice in choices])))
    for largest, chances_then in found[1:]:
        assert largest == pytest.approx(found[0][0])
        assert torch.allclose(chances_then, found[0][1], atol=1e-5)


def test_equal_rewards_of_several_choices_leave_only_the_entropy_bonus() -> None:
    seen = states(1)
    choices = [Choice(seen, torch.tensor([index])) for index in (2, 3)]
    for bonus, moves in ((0.0, False), (0.3, True)):
        net = make(groups=1, entropy_bonus=bonus)
        with torch.no_grad():
            net.own[0, 2] = 2.0
        before = net.own.detach().clone()
        assert net.learn(choices, [0.5, 0.5]) == 0.0
        assert (net.own[0, 2] < before[0, 2]) == moves
        assert torch.equal(net.own, before) != moves


@pytest.mark.parametrize(("reward", "raised"), [(0.9, True), (0.1, False)])
def test_one_reward_makes_the_choice_likelier_or_less_likely(reward: float, raised: bool) -> None:
    net, seen = make(entropy_bonus=0.0), states()
    choice = Choice(seen, torch.tensor([1, 4, 6]))
    net.learn([choice], [0.5])
    before = log_chances(net, choice)
    net.learn([choice], [reward])
    change = log_chances(net, choice) - before
    assert ((change > 0) if raised else (change < 0)).all()


def log_chances(net: ThreshNet, choice: Choice) -> Tensor:
    scores = torch.tanh(choice.states @ net.hidden) @ net.head + net.own
    return scores.log_softmax(-1).gather(1, choice.index[:, None]).detach()


def test_the_advantage_does_not_depend_on_the_scale_of_the_rewards() -> None:
    rewards = [0.5, 0.7, 0.4, 0.65, 0.2]
    found = []
    for scale in (1.0, 0.01):
        net = make()
        choice = net.choose(states(), None)
        found.append([net.learn([choice], [scale * reward]) for reward in rewards])
    assert found[0] == pytest.approx(found[1])


def test_equal_rewards_leave_only_the_entropy_bonus() -> None:
    """It draws a policy that leans to one side back towards the middle."""
    net, seen = make(groups=1), states(1)
    with torch.no_grad():
        net.own[0, 2] = 2.0
    choice = Choice(seen, torch.tensor([2]))
    before = log_chances(net, choice)
    assert [net.learn([choice], [0.5]) for _ in range(6)] == [0.0] * 6
    assert log_chances(net, choice) < before


def test_the_network_goes_on_exactly_where_its_state_was_taken() -> None:
    seen, best = states(), torch.tensor([5, 0, 3])
    net = make()
    play(net, seen, best, steps=20, seed=0)
    tensors, figures = net.state()
    other = make(seed=1)
    play(other, seen, best, steps=3, seed=5)  # what it learned itself must be gone
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, dict(figures))
    for each in (net, other):
        play(each, seen, best, steps=20, seed=2)
    (mine, my_figures), (theirs, their_figures) = net.state(), other.state()
    assert my_figures == their_figures
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_state_before_the_first_reward_can_be_restored() -> None:
    net, other = make(seed=0), make(seed=1)
    other.restore(*net.state())
    for each in (net, other):
        play(each, states(), torch.tensor([1, 2, 3]), steps=5, seed=0)
    assert torch.equal(net.own, other.own)
    assert torch.equal(net.hidden, other.hidden)


def test_equal_seeds_make_equal_networks() -> None:
    assert torch.equal(make(seed=4).hidden, make(seed=4).hidden)
    assert not torch.equal(make(seed=4).hidden, make(seed=5).hidden)


def test_the_states_tell_what_a_group_is_like(channels: ChannelMap) -> None:
    weights = [
        np.linspace(-1, 1, g.width) * scale for g, scale in zip(channels.groups, (1, 0, 2), strict=True)
    ]
    p = [space.probabilities(w, np.zeros(len(w)), sigma=0.0, tau=1.0) for w in weights]
    rows = describe(channels, weights, p, share=0.35)
    spread, largest, entropy, width, cost, depth, share, one = rows.T.tolist()
    assert rows.shape == (3, FEATURES)
    assert spread[0] < spread[2]
    assert largest == pytest.approx([1, 0, 2])
    assert entropy[1] == pytest.approx(1)
    assert 0 < entropy[2] < entropy[0] < 1
    assert width == pytest.approx([0.3, np.log2(12) / 10, 0.4])
    assert cost == pytest.approx(list(channels.flops_share.values()))
    assert depth == [0, 0.5, 1]
    assert share == pytest.approx([0.35] * 3)
    assert one == [1, 1, 1]
