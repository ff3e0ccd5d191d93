"""Images on which rounding decides: those whose two best scores are nearer to each other than it goes."""

from __future__ import annotations

from torch import Tensor, nn

from jstc.soundness.rounding import first_output

__all__ = ["Undecided"]


class Undecided(nn.Module):
    """`network`, and in `count` how many of the images that it was given have their two best scores `within`.

    Another computation whose scores are at most half as far from these answers all others alike: its number
    of right answers differs by at most `count`.
    """

    def __init__(self, network: nn.Module, *, within: float) -> None:
        super().__init__()
        self.network, self.within = network, within
        self._counts: list[Tensor] = []

    @property
    def count(self) -> int:
        """Such images so far; those whose scores are no numbers are not among them."""
        return int(sum(int(found) for found in self._counts))

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, classes] of `images` [N, C, H, W]."""
        scores = first_output(self.network(images))
        if scores.shape[1] > 1:
            best = scores.float().topk(2, dim=1).values
            self._counts.append((best[:, 0] - best[:, 1] <= self.within).sum())
        return scores
