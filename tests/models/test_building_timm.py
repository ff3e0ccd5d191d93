from __future__ import annotations

import importlib.util

import pytest

import jstc.models
from jstc.errors import ModelError, UnknownNameError
from jstc.models import ModelSpec, spec

WITH_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def _spec(name: str) -> ModelSpec:
    return spec(name, num_classes=7, in_channels=1, height=64, width=64)


@WITH_TIMM
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_timm_networks_are_built(device: str) -> None:
    model = jstc.models.build(_spec("timm:resnet10t"), device=device)
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {device}
    assert model.conv1[0].weight.shape[1] == 1
    assert model.fc.weight.shape[0] == 7


@WITH_TIMM
def test_near_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'timm:resnet5o'; did you mean .*'timm:resnet"):
        jstc.models.build(_spec("timm:resnet5o"))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "timm" else find(n))
    with pytest.raises(
        ModelError, match=r"needs timm, which is not installed: pip install 'joint-search-training\[timm\]'"
    ):
        jstc.models.check("timm:resnet18")
