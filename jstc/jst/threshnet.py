"""ThreshNet: a small policy network that chooses each group's threshold, trained by REINFORCE.

The way round: `describe` makes a state of every group, `ThreshNet.choose` draws a number in the grid of
thresholds for each, the plan of these thresholds earns a reward, and `ThreshNet.learn` makes choices that
earned more than others likelier. The projection onto the budget moves all thresholds together, so only how
they differ from each other counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jstc.channels import ChannelMap

__all__ = ["FEATURES", "Choice", "ThreshNet", "describe"]

Vector = NDArray[np.float64]

FEATURES = 8
_HIDDEN = 32
_BASELINE_DECAY = 0.8
_LARGEST = 3.0
"""Advantages beyond this are cut off: the spread of the first few rewards is a guess."""
_ANEW = 0.3
"""Share of the groups that draw anew beside an incumbent; the others keep the threshold that won."""
_SHARED = 1 / _HIDDEN
"""Learning rate of the network that all groups share, against that of each group's own logits. Adam moves
every parameter by about the same, and this many of them add up in a logit: at equal rates all groups would
move together by much more than each by itself, and the projection takes away what they have in common."""
_STEEPNESS = 1.5
"""Logits fall by this with every step of the grid from the start, which so has two thirds of the chances."""


def describe(channels: ChannelMap, weights: Sequence[Vector], p: Sequence[Vector], *, share: float) -> Tensor:
    """One state vector per group, [groups, FEATURES].

    Spread and largest of the channel weights, entropy of the probabilities relative to a uniform one, log
    width, share of the FLOPs, relative depth, the `share` of the target network that the budget allows, and
    one.
    """
    rows = []
    last = max(1, len(channels.groups) - 1)
    for index, (group, a, q) in enumerate(zip(channels.groups, weights, p, strict=True)):
        entropy = -(q * np.log(np.maximum(q, 1e-12))).sum() / np.log(max(group.width, 2))
        depth, cost = index / last, channels.flops_share[group.name]
        rows.append([a.std(), a.max(), entropy, np.log2(group.width) / 10, cost, depth, share, 1.0])
    return torch.tensor(rows, dtype=torch.float32)


@dataclass(frozen=True)
class Choice:
    """What the policy saw and did: states [groups, FEATURES], index into the grid per group."""

    states: Tensor
    index: Tensor


class ThreshNet:
    """Policy over a grid of thresholds, one softmax per group, with its optimiser and moving baseline.

    A two-layer network shared by all groups, plus one free row of logits per group, so that it can tell
    groups of the same statistics apart. The baseline of several choices made at the same weights is the mean
    of what they earned; that of a single one a moving average of the rewards before it, one for each budget.
    The advantage is the reward minus that, over the spread; the entropy bonus keeps the policy from closing
    early (Williams 1992). At first the thresholds next to `start`, the common one of the coarse rounds, are
    the likely ones, so that plans change in a few groups at a time.
    """

    def __init__(
        self, groups: int, grid: Sequence[float], *, start: float, lr: float, entropy_bonus: float, seed: int
    ) -> None:
        self.grid = torch.tensor(grid)
        self.entropy_bonus = entropy_bonus
        generator = torch.Generator().manual_seed(seed)
        self.hidden = _layer(FEATURES, _HIDDEN, generator)
        self.head = nn.Parameter(torch.zeros(_HIDDEN, len(grid)))  # zero: at first all groups are alike
        steps = (self.grid - start).abs() * (len(grid) - 1) / (max(grid) - min(grid))
        self.own = nn.Parameter((-_STEEPNESS * steps).repeat(groups, 1))
        self.parameters = {"hidden": self.hidden, "head": self.head, "own": self.own}
        rates = {"hidden": _SHARED * lr, "head": _SHARED * lr, "own": lr}
        self.optimizer = torch.optim.Adam(
            [{"params": [p], "lr": rates[n]} for n, p in self.parameters.items()]
        )
        self.moving: dict[str, list[float]] = {}  # by number of the budget: mean, spread, rewards compared

    def _logits(self, states: Tensor) -> Tensor:
        return torch.tanh(states @ self.hidden) @ self.head + self.own

    def choose(
        self, states: Tensor, generator: torch.Generator | None, *, before: Tensor | None = None
    ) -> Choice:
        """Draw a threshold for every group; without a generator take the likeliest.

        With the choice `before` [groups], each group draws anew by chance, and keeps its threshold otherwise;
        all do without a generator.
        """
        with torch.no_grad():
            p = self._logits(states).softmax(-1)
        if generator is None:
            return Choice(states, p.argmax(-1) if before is None else before)
        index = torch.multinomial(p, 1, generator=generator).squeeze(-1)
        if before is not None:
            anew = torch.rand(len(before), generator=generator) < _ANEW
            index = torch.where(anew, index, before)
        return Choice(states, index)

    def thresholds(self, choice: Choice) -> list[float]:
        """The thresholds of a choice."""
        chosen: list[float] = self.grid[choice.index].tolist()
        return chosen

    def learn(self, choices: Sequence[Choice], rewards: Sequence[float], budget: int = 0) -> float:
        """One REINFORCE step on what `choices` earned; returns the largest advantage that it used.

        A single first reward of a budget only sets the baseline: there is nothing yet to compare it with.
        """
        if len(choices) > 1:
            advantages = _against_each_other(rewards)
        elif str(budget) in self.moving:
            advantages = [self._against_the_past(rewards[0], str(budget))]
        else:
            self.moving[str(budget)] = [rewards[0], 0.0, 0]
            return 0.0
        # REINFORCE: what was drawn gets likelier by as much as it was better than the baseline.
        loss = torch.zeros(())
        for choice, advantage in zip(choices, advantages, strict=True):
            log_p = self._logits(choice.states).log_softmax(-1)
            chosen = log_p.gather(-1, choice.index.unsqueeze(-1)).sum()
            entropy = -(log_p.exp() * log_p).sum()
            loss = loss - (advantage * chosen + self.entropy_bonus * entropy) / len(choices)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return max(advantages)

    def _against_the_past(self, reward: float, budget: str) -> float:
        """Advantage of a single reward over the moving mean of those before, in their moving spread."""
        mean, spread, compared = self.moving[budget]
        difference = reward - mean
        spread = _BASELINE_DECAY * spread + (1 - _BASELINE_DECAY) * abs(difference)
        mean = _BASELINE_DECAY * mean + (1 - _BASELINE_DECAY) * reward
        self.moving[budget] = [mean, spread, compared + 1]
        # The spread began at zero; it is corrected for that as Adam's moments are (Kingma and Ba 2015).
        unbiased = spread / (1 - float(_BASELINE_DECAY ** (compared + 1)))
        return max(-_LARGEST, min(_LARGEST, difference / max(unbiased, 1e-6)))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and figures from which `restore` continues exactly."""
        tensors = {name: p.detach() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors, {"moving": {budget: list(figures) for budget, figures in self.moving.items()}}

    def restore(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
                keys = [k for k in tensors if k.startswith("adam.") and k.endswith(f".{name}")]
                self.optimizer.state[parameter] = {k.split(".")[1]: tensors[k].clone() for k in keys}
        self.moving = {budget: list(each) for budget, each in figures["moving"].items()}


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(inputs, outputs, generator=generator) / inputs**0.5)


def _against_each_other(rewards: Sequence[float]) -> list[float]:
    """Advantages of rewards earned at the same weights: standardised, zero where all are equal."""
    values = np.array(rewards)
    spread = float(values.std())
    return ((values - values.mean()) / max(spread, 1e-6)).tolist() if spread else [0.0] * len(values)
