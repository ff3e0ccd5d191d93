from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.errors import InputError
from jstc.recipe.schema import TrainSettings
from jstc.train import device as devices


def test_auto_takes_a_gpu_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert devices.device("auto") == torch.device("cuda:0")
    assert devices.device("cpu") == torch.device("cpu")


def test_asking_for_an_absent_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device 'cuda'.*use 'cpu'"):
        devices.device("cuda")


@pytest.mark.parametrize(
    ("precision", "fast", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, None),
    ],
)
def test_precision(
    precision: str, fast: bool, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda where: fast)
    settings = TrainSettings.model_validate({"precision": precision})
    assert devices.autocast_dtype(settings, torch.device("cpu")) == dtype


@pytest.mark.parametrize("query", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_bfloat16_is_fast_on_cpus_with_instructions_for_it(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not devices.has_fast_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, query, lambda: True)
    assert devices.has_fast_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("channels_last", [True, False])
def test_place_and_as_input_agree_on_the_layout(channels_last: bool) -> None:
    settings = TrainSettings(channels_last=channels_last)
    network = devices.to_device(nn.Conv2d(4, 4, 3), settings, torch.device("cpu"))
    images = torch.randn(2, 4, 5, 5)
    placed = devices.as_input(images, channels_last=channels_last)
    for tensor in (network.weight, placed):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert torch.equal(placed, images)


def test_tensors_of_five_dimensions_have_no_channels_last_layout() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv3d(4, 4, 3))
    network.register_buffer("positions", torch.randn(1, 4, 2, 3, 3))
    before = [tensor.clone() for tensor in network.state_dict().values()]
    devices.to_device(network, TrainSettings(channels_last=True), torch.device("cpu"))
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    after = network.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert devices.as_input(torch.zeros(1, 4, 2, 3, 3), channels_last=True).is_contiguous()


def test_autocast_without_a_dtype_does_nothing() -> None:
    layer, row = nn.Linear(3, 2), torch.randn(1, 3)
    with devices.autocast(torch.device("cpu"), None):
        assert layer(row).dtype == torch.float32
    with devices.autocast(torch.device("cpu"), torch.bfloat16):
        assert layer(row).dtype == torch.bfloat16


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        devices.set_threads(1)
        assert torch.get_num_threads() == 1
        devices.set_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
