from __future__ import annotations

import pytest
import torch

from jstc.train import seeds


def test_generators_of_one_purpose_agree() -> None:
    first, again, other = (torch.rand(4, generator=seeds.generator(0, p)) for p in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeded_sets_the_global_state_and_restores_it() -> None:
    before = torch.get_rng_state()
    with seeds.seeded(5, "dropout", 1):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeds.seeded(5, "dropout", 1):
        assert torch.equal(torch.rand(3), inside)


def test_seeded_restores_the_global_state_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeds.seeded(5):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
