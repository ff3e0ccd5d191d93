"""What processes tell each other changes nothing for a process alone."""

from __future__ import annotations

import torch
import torch.distributed as dist

from jstc.data.base import WHOLE
from jstc.train import collectives, process_group


def test_a_process_alone_does_nothing_of_it():
    network = torch.nn.Linear(2, 2)
    assert collectives.part() is WHOLE
    assert collectives.sums([0.1]) == [0.1]
    assert collectives.share(3, whole=4) == 1.0
    with collectives.averaging(network) as called:
        assert called is network


def test_torchruns_variables_alone_change_nothing(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (collectives.world(), collectives.is_first()) == (1, True)  # outside of what all do together
    with collectives.together():
        assert (collectives.world(), collectives.is_first()) == (2, False)
    assert collectives.world() == 1


def test_fingerprints_tell_single_bits():
    tensor = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    before = collectives.fingerprint([tensor, torch.ones(3, dtype=torch.bfloat16)])
    tensor[1, 1, 1, 1] = 1e-45
    assert collectives.fingerprint([tensor, torch.ones(3, dtype=torch.bfloat16)]) != before


def test_norms_of_the_whole_batch_share_all_tensors_and_go_again(monkeypatch):
    norm = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Sequential(norm))
    monkeypatch.setattr(collectives, "world", lambda: 2)
    with collectives.whole_batch_norms(network, wanted=True):
        other = network[1][0]
        assert isinstance(other, torch.nn.SyncBatchNorm)
        assert other.weight is norm.weight and other.running_var is norm.running_var
        network.eval()
    assert network[1][0] is norm and not norm.training
    with collectives.whole_batch_norms(network, wanted=False):
        assert network[1][0] is norm


def test_a_group_of_the_users_own_program_is_left_as_it_was():
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        process_group.join(torch.device("cpu"))
        process_group.leave()
        assert dist.is_initialized()
        process_group.join(torch.device("cpu"))  # and once more
        process_group.leave()
    finally:
        dist.destroy_process_group()
    assert not dist.is_initialized()
