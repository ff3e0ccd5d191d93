from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import jstc.models
from jstc.errors import ModelError, UnknownNameError
from jstc.models import ModelSpec, spec


def _spec(name: str, *, side: int = 224, in_channels: int = 3) -> ModelSpec:
    return spec(name, num_classes=7, in_channels=in_channels, height=side, width=side)


def _form(model: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _devices(model: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]}


@pytest.mark.parametrize("entry", jstc.models.names(), ids=lambda entry: entry.name)
def test_every_network_is_built_for_its_shapes(entry: jstc.models.ModelEntry) -> None:
    model = jstc.models.build(_spec(entry.name), device="meta")
    assert _devices(model) == {"meta"}
    assert any(shape[0] % 7 == 0 for shape in _form(model).values() if shape)


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v3_small", "squeezenet1_0", "googlenet", "regnet_y_400mf", "swin_t"]
)
def test_shapes_on_the_meta_device_are_those_of_the_real_network(name: str) -> None:
    real = jstc.models.build(_spec(name))
    assert _devices(real) == {"cpu"}
    assert _form(jstc.models.build(_spec(name), device="meta")) == _form(real)
    assert all(torch.isfinite(tensor).all() for tensor in real.state_dict().values())


def test_small_images_get_the_cifar_form() -> None:
    small, large = (jstc.models.build(_spec("vgg16_bn", side=s), device="meta") for s in (32, 224))
    assert type(small).__name__ == "CifarVGG"
    assert type(large).__name__ == "VGG"


def test_initialisation_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = jstc.models.build(_spec("resnet20"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = jstc.models.build(_spec("resnet20")), jstc.models.build(_spec("resnet20"), seed=1)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_torchvision_reads_three_channels_and_ours_any() -> None:
    with pytest.raises(ModelError, match="reads images of 3 channels, not 1"):
        jstc.models.build(_spec("resnet18", in_channels=1))
    assert jstc.models.build(_spec("resnet20", in_channels=1)).conv1.weight.shape[1] == 1


def test_unknown_names_and_forged_specs_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*'resnet20'"):
        jstc.models.build(ModelSpec("resnet2o", 10, 3, 32, 32, False))
    with pytest.raises(ModelError, match="'resnet50' has no CIFAR form"):
        jstc.models.build(ModelSpec("resnet50", 10, 3, 32, 32, True))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "nets.py") -> None:
        (tmp_path / name).write_text("from torch import nn\nimport torch\n" + text)

    return write


MAKERS = """
def by_name(num_classes, in_channels=3): return nn.Conv2d(in_channels, num_classes, 1)
def by_kwargs(**options): return nn.Conv2d(3, options['num_classes'], 1)
def fixed(): return nn.Conv2d(3, 7, 1)
def reads(num_classes): return nn.Conv2d(3, int(torch.empty(1).fill_(num_classes).item()), 1)
"""


@pytest.mark.parametrize("factory", ["by_name", "by_kwargs", "fixed", "reads"])
@pytest.mark.parametrize("location", ["nets.py", "nets"])
def test_a_users_factory_is_called(write: object, factory: str, location: str) -> None:
    write(MAKERS)  # type: ignore[operator]
    sys.modules.pop("nets", None)
    for device in ("cpu", "meta"):
        model = jstc.models.build(_spec(f"{location}:{factory}"), device=device)
        assert model.weight.shape == (7, 3, 1, 1)
        assert model.weight.device.type == device


WRAPPED = """
class OptimizedModule(nn.Module):  # torch's own takes seconds to import
    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner
class DistributedDataParallel(nn.Module):  # torch's own needs other processes
    def __init__(self, inner):
        super().__init__()
        self.module = inner
def compiled(): return OptimizedModule(nn.Conv2d(3, 7, 1))
def parallel(): return nn.DataParallel(nn.Conv2d(3, 7, 1))
def both(): return OptimizedModule(DistributedDataParallel(nn.Conv2d(3, 7, 1)))
def parts(): return nn.Sequential(nn.Sequential(OptimizedModule(nn.Conv2d(3, 7, 1))), compiled())

def compile(function):
    def fast(*inputs): raise AssertionError
    fast._torchdynamo_orig_callable = function
    return fast
class Decorated(nn.Conv2d):
    @compile
    def forward(self, x): return super().forward(x) + 1
def decorated(): return nn.Sequential(Decorated(3, 7, 1))
"""


@pytest.mark.parametrize("factory", ["compiled", "parallel", "both"])
def test_what_only_runs_a_users_network_is_taken_off(write: object, factory: str) -> None:
    write(WRAPPED)  # type: ignore[operator]
    for device in ("cpu", "meta"):
        assert list(jstc.models.build(_spec(f"nets.py:{factory}"), device=device).state_dict()) == [
            "weight",
            "bias",
        ]


def test_what_only_runs_parts_of_a_users_network_is_taken_off(write: object) -> None:
    write(WRAPPED)  # type: ignore[operator]
    parts = jstc.models.build(_spec("nets.py:parts"))
    assert list(parts.state_dict()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert jstc.models.build(_spec("nets.py:decorated"))(torch.ones(1, 3, 2, 2)).shape == (1, 7, 2, 2)


def test_a_users_file_may_import_its_neighbour(write: object, tmp_path: Path) -> None:
    write("def head(): return nn.Linear(2, 7)", "jstc_test_neighbour.py")  # type: ignore[operator]
    write("from jstc_test_neighbour import head")  # type: ignore[operator]
    path = list(sys.path)
    assert isinstance(jstc.models.build(_spec("nets.py:head")), nn.Linear)
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", r"cannot be imported: ModuleNotFoundError: .* in .*nets\.py, line 3"),
        ("def make(:", r"cannot be imported: SyntaxError: .* in .*nets\.py, line 3"),
        ("raise SystemExit(2)", r"cannot be imported: SystemExit: 2 in .*nets\.py, line 3; put .*__main__"),
        ("def make(): raise SystemExit", r"factory failed: SystemExit: +in .*nets\.py, line 3"),
        ("other = 1", r"nets\.py has no function 'make'"),
        ("make = 1", r"nets\.py has no function 'make'"),
        ("def make(): return 3", r"expected a torch\.nn\.Module, but got int"),
        ("\ndef make():\n    return 1 / 0", r"factory failed: ZeroDivisionError: .* in .*nets\.py, line 5"),
        ("def make(width, num_classes): pass", r"the factory asks for 'width'; it is given num_classes and"),
        ("def make(num_classes, /): pass", r"the factory asks for 'num_classes'; .* by name where it takes"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said_with_its_line(
    write: object, text: str, message: str
) -> None:
    write(text)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        jstc.models.build(_spec("nets.py:make"))
