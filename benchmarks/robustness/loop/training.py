"""A network and a training loop that know nothing of jstc but `JointSearch`: images twice as large."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jstc

__all__ = ["Upscaler", "given", "search"]

ROUNDS, STEPS, CANDIDATES = 6, 25, 12
_SMALL = torch.rand(48, 3, 12, 12, generator=torch.Generator().manual_seed(0))
_LARGE = F.interpolate(_SMALL, scale_factor=2, mode="bicubic")
_BATCHES = [(_SMALL[at : at + 12], _LARGE[at : at + 12]) for at in range(0, 48, 12)]


class Upscaler(nn.Module):
    """Residual blocks with batch norms and dropout, which draws numbers, and a pixel shuffle."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 12, 3, padding=1)
        self.blocks = nn.ModuleList(self._block(width) for _ in range(blocks))

    @staticmethod
    def _block(width: int) -> nn.Module:
        inner, outer = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(inner, nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.05), outer)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        for block in self.blocks:
            x = x + block(x)
        return F.pixel_shuffle(self.last(x), 2)


def _loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.l1_loss(network(batch[0]), batch[1])


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        _loss(network, _BATCHES[step % len(_BATCHES)]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _score(network: nn.Module) -> float:
    return -float(F.l1_loss(network.eval()(_SMALL), _LARGE))


def given(*, trained: bool) -> Upscaler:
    """The network that a search begins with."""
    torch.manual_seed(1)
    network = Upscaler()
    if trained:
        _train(network, torch.optim.AdamW(network.parameters(), lr=2e-3), 4 * STEPS)
    return network


def search(folder: Path, network: nn.Module, *, trained: bool) -> None:
    """Everything that a user's script does, begun or gone on with: the search in `folder`, its end in `slim`.

    `asked.log` gets a line for every round that was asked for: its number, plan and a hash of its weights.
    """
    joint = jstc.JointSearch(
        copy.deepcopy(network), _SMALL[:1], out=folder / "search", flops=0.5, rounds=ROUNDS, trained=trained,
        batches=_BATCHES, loss=_loss, settings={"search.candidates": CANDIDATES}, progress=False,
    )  # fmt: skip
    while not joint.done:
        round_ = joint.ask()
        _note(folder / "asked.log", round_)
        torch.manual_seed(round_.number)
        optimizer = torch.optim.AdamW(round_.network.parameters(), lr=1e-3)
        round_.load(optimizer)
        _train(round_.network, optimizer, STEPS)
        round_.save(optimizer)
        joint.tell(round_, _score(round_.network))
    for round_ in joint.finalists():
        _note(folder / "asked.log", round_)
        jstc.recalibrate(round_.network, _BATCHES)
        joint.tell(round_, _score(round_.network))
    joint.finish().save(folder / "slim")


def _note(log: Path, round_: Any) -> None:
    digest = hashlib.sha256()
    for tensor in round_.network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{round_.number} {round_.phase} {round_.plan.hash} {digest.hexdigest()}\n")
