"""The self-test of the kernels: found, replaced forward and backward, said, kept."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from jstc import finetune
from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import DiskFullError
from jstc.recipe.schema import TrainSettings
from jstc.train import kernels
from jstc.train.device import Numerics
from jstc.train.kernels import judge
from jstc.train.kernels.judge import Setting
from jstc.train.loop import computes_right

BFLOAT16 = Numerics(torch.bfloat16, channels_last=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("JSTC_CACHE", str(tmp_path / "cache"))
    kernels.reset()
    yield
    kernels.reset()


class _Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.spoil = spoil
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.spoil(gradient), None


def first_tap(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[..., 0, 0] = value
        return gradient

    return spoil


class WrongKernels(TorchFunctionMode):
    """torch, if its low-precision convolutions with stride 2 had wrong gradients of their weights."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.spoil, self.calls = spoil or first_tap(1e30), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_autocast_enabled("cpu"):
            stride = kwargs.get("stride", args[3] if len(args) > 3 else 1)
            if tuple(stride) == (2, 2):
                self.calls += 1
                args = (args[0], _Spoiled.apply(args[1], self.spoil), *args[2:])
        return func(*args, **kwargs)


class Wide(nn.Conv2d):
    """A convolution in float32, whatever autocast says."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).bfloat16()


def network(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), kind(8, 12, 3, 2, 1), nn.ReLU()]
    made: nn.Module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return made.to(memory_format=torch.channels_last)


def trained(made: nn.Module, steps: int = 2) -> dict[str, Tensor]:
    """Its tensors after some steps in bfloat16 on batches of their own."""
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = torch.randn(16, 3, 8, 8, generator=source), torch.arange(16) % 5
        optimizer.zero_grad()
        F.cross_entropy(BFLOAT16.call(made, images).float(), labels).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}


def test_a_wrong_kernel_is_found_and_the_layer_trained_in_the_next_form_to_the_same_bits():
    made = network()
    with WrongKernels() as wrong:
        found = trained(made)
        tried = wrong.calls
        trained(network())
    right = trained(network(Wide))
    assert all(torch.equal(found[name], right[name]) for name in right)
    assert wrong.calls == tried  # judged once, and never called after that
    [row] = kernels.document()["kernels"]
    assert row == {
        "layers": ["3"],
        "call": "3x3 convolution of 8 to 12 channels on 8x8 positions, stride 2",
        "dtype": "bfloat16",
        "wrong": ["gradient of the weight"],
        "form": "float32, channels-last",
    }


def test_without_the_test_the_wrong_gradient_is_trained_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge, "faults", lambda *_: {})
    with WrongKernels():
        found = trained(network(), steps=1)
    assert float(found["3.weight"].abs().max()) > 1e20


def test_nothing_stays_on_the_network():
    made = network()
    before, keys = copy.deepcopy(vars(made)), list(made.state_dict())
    with WrongKernels():
        trained(made)
        with torch.inference_mode():
            scores = BFLOAT16.call(made.eval(), torch.randn(4, 3, 8, 8))
    assert scores.isfinite().all()
    assert vars(made).keys() == before.keys()
    assert list(made.state_dict()) == keys
    copied = copy.deepcopy(made)
    assert all(type(one) is type(other) for one, other in zip(made.modules(), copied.modules(), strict=True))


def test_where_all_is_right_later_calls_are_not_looked_at():
    stacks: list[int] = []

    class Looking(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            stacks.append(len(_get_current_function_mode_stack()))
            return super().forward(x)

    made, images = Looking(3, 4, 3), torch.randn(2, 3, 8, 8)
    for _ in range(3):
        Numerics().call(made, images)
    assert stacks == [1, 0, 0]
    assert kernels.document() == {}


def test_a_verdict_is_kept_for_the_next_process(monkeypatch: pytest.MonkeyPatch):
    with WrongKernels():
        trained(network())
    kernels.reset()

    def never(*_: Any) -> Any:
        raise AssertionError("judged again")

    monkeypatch.setattr(judge, "faults", never)
    with WrongKernels():
        found = trained(network())
    assert float(found["3.weight"].abs().max()) < 10


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"threads": ', '"threads": 9'),
        lambda text: text.replace('"format": 1', '"format": 99'),
        lambda text: text.replace('"dtype": "float32"', '"dtype": "int8"'),
        lambda text: text.replace('"form": {', '"form": [{').replace("}\n    }", "}]\n    }"),
        lambda _: "[]",
    ],
)
def test_verdicts_that_are_damaged_or_of_another_setting_are_found_anew(change: Callable[[str], str]):
    with WrongKernels():
        trained(network())
    path = Setting.here().path
    sound = path.read_text()
    changed = change(sound)
    assert changed != sound
    path.write_text(changed)
    kernels.reset()
    with WrongKernels() as wrong:
        trained(network())
    assert wrong.calls > 0
    assert json.loads(path.read_text()) == json.loads(sound)


def full_disk(*_: Any) -> Any:
    raise DiskFullError("no space left")


def no_home() -> Any:
    raise RuntimeError("Could not determine home directory.")


def no_locks(*_: Any) -> Any:
    raise NotImplementedError("FileSystem does not appear to support flock")


@pytest.mark.parametrize(
    ("where", "name", "fails"),
    [
        (files, "write_json", full_disk),
        (files, "cache_folder", no_home),
        (filelock.FileLock, "__enter__", no_locks),
        (files, "cache_folder", lambda: Path(__file__)),
    ],
)
def test_a_cache_that_cannot_be_written_hinders_nobody(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, fails: Callable[..., Any]
):
    monkeypatch.setattr(where, name, fails)
    with WrongKernels():
        found = trained(network())
    assert float(found["3.weight"].abs().max()) < 10


def test_the_newest_verdicts_alone_are_kept_on_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge, "_MOST_KEPT", 3)
    setting, sound = Setting.here(), judge.Verdict()
    judge.save(setting, {"z": sound, "a": sound})
    own = {"m": sound, "b": sound}
    judge.save(setting, own)
    assert list(judge.read(setting)) == ["a", "m", "b"]
    assert set(own) == {"z", "a", "m", "b"}  # what another process has found is known here from now on


def test_it_is_said_once_in_words_and_again_in_another_run(tmp_path: Path):
    said: list[str] = []
    kernels.begin(tmp_path / "one")
    with WrongKernels():
        for _ in range(2):
            trained(network())
            kernels.say(said.append)
        assert said == [
            "torch computes wrong on this processor, in bfloat16: 3 (3x3 convolution of 8 to 12 channels "
            "on 8x8 positions, stride 2: the gradient of the weight is garbage); computed in float32, "
            "channels-last instead, which takes longer"
        ]
        kernels.begin(tmp_path / "one")
        assert kernels.document() == {}
        trained(network())
        kernels.say(said.append)
        assert len(said) == 1
        assert len(kernels.document()["kernels"]) == 1
        kernels.begin(tmp_path / "two")
        trained(network())
        kernels.say(said.append)
        assert len(said) == 2


def test_a_network_with_a_wrong_kernel_is_not_one_to_compile():
    with WrongKernels():
        assert not computes_right(network(), BFLOAT16, (4, 3, 8, 8))
        assert computes_right(network(), Numerics(channels_last=True), (4, 3, 8, 8))


@pytest.mark.parametrize(
    "spoil", [first_tap(float("nan")), first_tap(0.0), lambda g: g * 1.2, torch.zeros_like]
)
def test_any_wrong_gradient_is_found(spoil: Callable[[Tensor], Tensor]):
    with WrongKernels(spoil):
        trained(network())
    assert [row["wrong"] for row in kernels.document()["kernels"]] == [["gradient of the weight"]]


def test_a_gradient_that_two_runs_do_not_share_is_found():
    numbers = iter(range(100))
    with WrongKernels(lambda g: g * (1 + 2.0**-7 * (next(numbers) % 2))):
        trained(network())
    assert [row["wrong"] for row in kernels.document()["kernels"]] == [[judge.REPEATED]]


RISKY = {
    "maps of one position": (nn.Conv2d(24, 40, 3, 2, 1), 1),
    "maps of one position, depthwise": (nn.Conv2d(40, 40, 5, 2, 2, groups=40), 1),
    "dilated": (nn.Conv2d(24, 24, 3, padding=2, dilation=2), 29),
    "dilated, depthwise": (nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=24), 29),
    "dilated, grouped": (nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=4), 32),
}


@pytest.mark.parametrize("name", RISKY)
def test_this_machine_trains_with_right_gradients(name: str):
    """Whatever its kernels are: on some processors those of torch are wrong for all of these."""
    layer, size = RISKY[name]
    layer = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    source = torch.Generator().manual_seed(2)
    x = torch.randn(4, layer.in_channels, size, size, generator=source)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
        x = x.bfloat16().float()
    y = BFLOAT16.call(layer, x)
    gradient = torch.randn(y.shape, generator=source).to(y.dtype)
    y.backward(gradient)
    right = copy.deepcopy(layer).double()
    right.zero_grad()
    right(x.double()).backward(gradient.double())
    error = (layer.weight.grad.double() - right.weight.grad).abs().max()
    assert float(error / right.weight.grad.square().mean().sqrt()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kernels_of", ["AVX512_CORE_BF16", "AVX512_CORE", "AVX2"])
def test_so_it_does_with_the_kernels_of_other_processors(kernels_of: str):
    """oneDNN takes those of older processors than this one where it is told to."""
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "this_machine_trains"]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": kernels_of}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(RISKY)} passed" in done.stdout


def test_a_finetune_on_a_wrong_kernel_is_not_compiled_and_says_so(no_backend: list[dict[str, Any]]):
    told: list[str] = []

    class Told(Silent):
        def message(self, text: str) -> None:
            told.append(text)

    recipe: Any = SimpleNamespace(
        finetune=SimpleNamespace(compile=True), train=TrainSettings(precision="bfloat16", batch_size=4)
    )
    dataset: Any = SimpleNamespace(info=SimpleNamespace(input_shape=(3, 8, 8)))
    made = network()
    with WrongKernels():
        assert finetune._called(made, dataset, recipe, Told()) is made
    assert no_backend == []
    assert told[0].startswith("torch computes wrong on this processor, in bfloat16: 3 (3x3 convolution")
    assert told[1:] == [
        "finetune.compile is left off: a compiled network would call the kernels that are wrong"
    ]
    kernels.reset()
    assert finetune._called(network(Wide), dataset, recipe, Told()) is not made
    assert len(no_backend) == 1
