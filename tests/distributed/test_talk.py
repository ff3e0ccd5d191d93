"""What processes tell each other; and that a process alone hears nothing."""

from __future__ import annotations

import torch

from jstc.data.info import WHOLE
from jstc.train import distributed, replicas


def test_process_0_decides(both):
    assert [found["decided"] for found in both("talk")] == [{"rank": 0}] * 2


def test_sums_are_the_same_everywhere(both):
    first, second = both("talk")
    assert first["sums"] == second["sums"] == [0.2, 3.0]
    assert first["agreed"] == second["agreed"] == [True, False]


def test_tensors_are_copied_whatever_their_type_and_layout(both):
    assert [found["copied"] for found in both("talk")] == [[[0.0] * 3, [[0, 0]] * 3]] * 2


def test_files_are_read_by_process_0(both):
    loaded = [{"a": [0.0, 1.0, 2.0], "b": 1.0}, {"x": 1}]
    assert [found["loaded"] for found in both("talk")] == [loaded] * 2
    assert [found["nothing"] for found in both("talk")] == [None, None]


def test_each_has_its_part_and_its_random_numbers(both):
    first, second = both("talk")
    assert (first["part"], second["part"]) == ([0, 2], [1, 2])
    assert (first["seed"], second["seed"]) == ([], [1])


def test_a_difference_ends_all_with_a_message(both):
    first, second = both("differences")
    assert first == second
    assert first["same"] is None
    assert first["other"].startswith("the network is another on process 1 than on process 0")
    assert first["plan"].startswith("the plan is another on process 1")


def test_an_error_of_process_0_reaches_all(both):
    assert [found["decided"] for found in both("differences")] == ["no such file"] * 2


def test_a_process_alone_does_nothing_of_it():
    network = torch.nn.Linear(2, 2)
    assert distributed.part() is WHOLE
    assert distributed.sums([0.1]) == [0.1]
    assert distributed.share(3, whole=4) == 1.0
    with replicas.averaging(network) as called:
        assert called is network


def test_torchruns_variables_alone_change_nothing(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (distributed.world(), distributed.is_first()) == (1, True)  # outside of what all do together
    with distributed.together():
        assert (distributed.world(), distributed.is_first()) == (2, False)
    assert distributed.world() == 1


def test_fingerprints_tell_single_bits():
    tensor = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    before = distributed.fingerprint([tensor, torch.ones(3, dtype=torch.bfloat16)])
    tensor[1, 1, 1, 1] = 1e-45
    assert distributed.fingerprint([tensor, torch.ones(3, dtype=torch.bfloat16)]) != before


def test_norms_of_the_whole_batch_share_all_tensors_and_go_again(monkeypatch):
    norm = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Sequential(norm))
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with replicas.whole_batch_norms(network, wanted=True):
        other = network[1][0]
        assert isinstance(other, torch.nn.SyncBatchNorm)
        assert other.weight is norm.weight and other.running_var is norm.running_var
        network.eval()
    assert network[1][0] is norm and not norm.training
    with replicas.whole_batch_norms(network, wanted=False):
        assert network[1][0] is norm
