from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from jstc.errors import InputError
from jstc.recipe.schema import TrainSettings
from jstc.train import device, optim
from jstc.train.loop import stream, train_steps
from jstc.train.one_step import StepOptions
from jstc.train.schedule import Schedule

CPU = torch.device("cpu")


def trained(network: nn.Module, called: nn.Module, split: Any, **options: Any) -> nn.Module:
    train_steps(
        called,
        stream(split, 16, seed=0, start=0, count=4),
        optimizer=optim.make(dict(network.named_parameters()), TrainSettings(lr=0.05)),
        schedule=Schedule(base=0.05, total=4),
        first_step=0,
        options=StepOptions(seed=0, **options),
    )
    return network


def test_a_compiled_network_trains_the_networks_own_parameters(
    make_network: Any, split: Any, no_backend: list[dict[str, Any]]
) -> None:
    plain, network = make_network(), make_network()
    trained(plain, plain, split)
    trained(network, device.compiled(network), split)
    assert no_backend == [{"dynamic": False}]
    pairs = zip(plain.state_dict().values(), network.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_more_widths_than_torch_keeps_by_default_are_compiled() -> None:
    """By default torch gives up on a forward after eight compilations."""
    made = []

    def backend(module: Any, _: Any) -> Any:
        made.append(module)
        return module.forward

    torch._dynamo.reset()
    plain = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda network, **options: plain(network, backend=backend, **options))
        for width in range(1, 12):
            for _ in range(2):  # the second is a network of its own, and needs no compilation
                device.compiled(nn.Sequential(nn.Linear(4, width)))(torch.ones(2, 4))
            assert len(made) == width


def test_a_missing_compiler_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("\n  InvalidCxxCompiler: no working C++ compiler\nand much more\n")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        InputError, match=r"finetune\.compile: .*\(InvalidCxxCompiler.*compiler\); on cpu it needs"
    ):
        device.require_compiler(CPU, key="finetune.compile")


@pytest.mark.slow
def test_torchs_compiler_gives_the_same_network(make_network: Any, split: Any) -> None:
    try:
        device.require_compiler(CPU, key="finetune.compile")
    except InputError as error:
        pytest.skip(str(error))
    networks = [make_network() for _ in range(3)]
    for network in networks:
        network.dropout.p = 0.0
    plain, compiled, parts = networks
    trained(plain, plain, split)
    trained(compiled, device.compiled(compiled), split)
    pairs = zip(plain.state_dict().values(), compiled.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
    torch._dynamo.reset()
    with partial(torch._dynamo.config.patch, error_on_recompile=True)():  # one shape, one compilation
        trained(parts, device.compiled(parts), split, accumulate=2)
