"""Files as trainings leave them: wrapped, nested, beside an average, a teacher or a criterion."""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from jstc.errors import ModelError
from jstc.models import load_weights

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 5)


def _state(network: nn.Module) -> State:
    return {key: value.clone() for key, value in network.state_dict().items()}


def _under(begin: str, state: Mapping[str, Tensor]) -> State:
    return {begin + key: value for key, value in state.items()}


def _holds(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def _loaded(document: object, folder: Path, part: str = "") -> tuple[Net, str]:
    torch.save(document, folder / "w.pt")
    network = Net()
    return network, "\n".join(load_weights(network, folder / f"w.pt{part}").notes)


_WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "Lightning": (lambda s: {"state_dict": _under("model.", s), "epoch": 3, "loops": {}}, "state_dict.model"),
    "a name of its author's": (
        lambda s: {"state_dict": _under("net.backbone.", s)},
        "state_dict.net.backbone",
    ),
    "distributed in Lightning": (
        lambda s: {"state_dict": _under("model.module.", s)},
        "state_dict.model.module",
    ),
    "compiled, then distributed": (lambda s: _under("module._orig_mod.", s), "module._orig_mod"),
    "distributed, then compiled": (
        lambda s: {"model": _under("_orig_mod.module.", s)},
        "model._orig_mod.module",
    ),
    "nested": (lambda s: {"checkpoint": {"weights": {"model": s}}, "step": 1}, "checkpoint.weights.model"),
    "deepspeed": (lambda s: {"module": s, "optimizer": {"state": {0: {}}}}, "module"),
}


@pytest.mark.parametrize(("wrap", "where"), _WRAPPED.values(), ids=_WRAPPED.keys())
def test_what_stands_before_all_names_is_taken_off_and_said(
    tmp_path: Path, wrap: Callable[[State], Any], where: str
) -> None:
    state = _state(Net())
    network, notes = _loaded(wrap(state), tmp_path)
    assert _holds(network, state)
    assert f"under '{where}'" in notes


def test_it_is_the_same_in_safetensors(tmp_path: Path) -> None:
    state, network = _state(Net()), Net()
    save_file(_under("model.net.", state), tmp_path / "w.safetensors")
    [note] = load_weights(network, tmp_path / "w.safetensors").notes
    assert _holds(network, state)
    assert note.endswith("under 'model.net'")


def test_names_that_are_the_network_s_are_nothing_to_say(tmp_path: Path) -> None:
    assert _loaded(_state(Net()), tmp_path)[1] == ""


def test_a_network_that_is_wrapped_itself_takes_plain_names(tmp_path: Path) -> None:
    state, network = _state(Net()), nn.Module()
    network.inner = Net()
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert _holds(network.inner, state)


def test_a_layer_that_was_wrapped_alone_is_found(tmp_path: Path) -> None:
    state = _state(Net())
    torch.save({key.replace("stem.", "stem._orig_mod."): v for key, v in state.items()}, tmp_path / "w.pt")
    network = Net()
    load_weights(network, tmp_path / "w.pt")
    assert _holds(network, state)


def test_what_lies_beside_the_network_is_left_out_and_said(tmp_path: Path) -> None:
    state, teacher = _state(Net()), nn.Linear(7, 7).state_dict()
    document = {
        "state_dict": {
            **_under("teacher.", teacher),
            **_under("model.", state),
            "criterion.weight": torch.ones(5),
            "val_accuracy.confmat": torch.zeros(5, 5, dtype=torch.int64),
        }
    }
    network, notes = _loaded(document, tmp_path)
    assert _holds(network, state)
    assert "left out: state_dict.teacher, state_dict.criterion, state_dict.val_accuracy" in notes


def test_a_prefix_that_does_not_make_everything_fit_is_not_taken_off(tmp_path: Path) -> None:
    state = _under("model.", _state(Net()))
    state["fc.bias"] = state.pop("model.fc.bias")
    with pytest.raises(ModelError, match=r"missing fc\.bias"):
        _loaded(state, tmp_path)


def test_what_stands_under_the_same_beginning_and_is_unknown_is_refused(tmp_path: Path) -> None:
    state = _under("model.", _state(Net()) | {"neck.weight": torch.ones(4)})
    with pytest.raises(ModelError, match=r"unknown neck\.weight"):
        _loaded(state, tmp_path)


def test_a_larger_network_that_has_all_of_a_smaller_is_not_taken_for_it(tmp_path: Path) -> None:
    state = _state(Net())
    teacher = _state(Net()) | {"neck.weight": torch.ones(4)}
    for document in (
        {"teacher": teacher, "student": state},
        {"state_dict": _under("a.", state) | _under("b.", teacher)},
    ):
        network, notes = _loaded(document, tmp_path)
        assert _holds(network, state)
        assert "left out: " in notes
    with pytest.raises(ModelError, match=r"unknown neck\.weight"):
        _loaded({"teacher": teacher}, tmp_path)


def test_a_tensor_that_is_called_as_the_beginning_is_no_matter(tmp_path: Path) -> None:
    state, network = _state(Net()), Net()
    save_file({"a.b": torch.ones(1)} | _under("a.b.", state), tmp_path / "w.safetensors")
    notes = load_weights(network, tmp_path / "w.safetensors").notes
    assert _holds(network, state)
    assert notes[1].endswith("left out: a.b")


def test_names_from_a_file_stay_on_one_line(tmp_path: Path) -> None:
    hostile = "a\nerror: all is lost\x1b[31m"
    state = _state(Net())
    _, notes = _loaded({hostile: state, f"{hostile}ema": {"x": torch.ones(1)}}, tmp_path)
    assert len(notes.splitlines()) == 2
    for document in ({hostile: torch.ones(1)}, {f"{hostile}.{key}": dict(state) for key in "ab"}):
        with pytest.raises(ModelError) as caught:
            _loaded(document, tmp_path)
        assert len(str(caught.value).splitlines()) == 1


# Averages.


def _averaged(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


@pytest.mark.parametrize(
    ("plain", "average"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("model_state_dict", "swa_model_state_dict"),
        ("net", "net_ema"),
    ],
)
@pytest.mark.parametrize("first", ["plain", "average"])
def test_of_weights_and_their_average_the_weights_are_taken_and_both_are_said(
    tmp_path: Path, plain: str, average: str, first: str
) -> None:
    state = _state(Net())
    other = _averaged(state)
    document = {plain: state, average: _under("module.", other)}
    if first == "average":
        document = dict(reversed(document.items()))
    network, notes = _loaded(document, tmp_path)
    assert _holds(network, state)
    assert f"under '{plain}'" in notes
    assert f"w.pt#{average}.module' takes that" in notes
    for part in (f"#{average}", f"#{average}.module"):
        network, notes = _loaded(document, tmp_path, part)
        assert _holds(network, other)


def test_an_average_alone_is_taken(tmp_path: Path) -> None:
    source = Net()
    network, notes = _loaded(AveragedModel(source).state_dict(), tmp_path)
    assert _holds(network, source.state_dict())
    assert notes.endswith("under 'module'")


def test_of_an_average_nothing_else_is_said_than_that_it_is_one(tmp_path: Path) -> None:
    source = Net()
    document = {"model": source.state_dict(), "swa": AveragedModel(Net()).state_dict()}
    network, notes = _loaded(document, tmp_path)
    assert _holds(network, source.state_dict())
    assert "not of the network" not in notes


def test_an_average_inside_of_the_network_s_own_names_is_left_out(tmp_path: Path) -> None:
    state = _state(Net())
    document = state | _under("shadow.", AveragedModel(Net()).state_dict())
    network, notes = _loaded(document, tmp_path)
    assert _holds(network, state)
    assert "#shadow.module' takes that" in notes


def test_a_part_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    document = {"state_dict": _state(Net()), "state_dict_ema": _state(Net())}
    with pytest.raises(ModelError, match=r"no part 'ema'; .* state_dict, state_dict_ema"):
        _loaded(document, tmp_path, "#ema")


def test_a_file_with_a_hash_in_its_name_is_that_file(tmp_path: Path) -> None:
    state, network = _state(Net()), Net()
    torch.save({"net": state, "net_ema": _averaged(state)}, tmp_path / "w#1.pt")
    notes = load_weights(network, tmp_path / "w#1.pt").notes
    assert _holds(network, state)
    assert notes[-1].endswith("w#1.pt#net_ema' takes that")
    load_weights(network, tmp_path / "w#1.pt#net_ema")
    assert _holds(network, _averaged(state))


def test_a_part_of_a_part_is_named_as_one(tmp_path: Path) -> None:
    state = _state(Net())
    document = {"best": {"model": state, "model_ema": _averaged(state)}, "last": {"model": _averaged(state)}}
    for part in ("#best", "#best.model"):
        network, notes = _loaded(document, tmp_path, part)
        assert _holds(network, state)
    _, notes = _loaded(document, tmp_path, "#best")
    assert notes.endswith("w.pt#best.model_ema' takes that")


# What lies beside the tensors.

_BESIDE: dict[str, Any] = {
    "options": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("x"), device=torch.device("cpu")),
    "figures": {"best": numpy.float64(0.93), "sizes": collections.defaultdict(list, {"a": [1]})},
    "what contains itself": None,
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", _BESIDE)
def test_options_and_figures_beside_the_weights_are_passed_over(
    tmp_path: Path, name: str, legacy: bool
) -> None:
    state = _state(Net())
    document: dict[str, Any] = {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1}]}}
    document["args"] = document if name == "what contains itself" else _BESIDE[name]
    torch.save(document, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    network = Net()
    load_weights(network, tmp_path / "w.pt")
    assert _holds(network, state)


def test_what_is_passed_over_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module = types.ModuleType("yacs.config")
    module.CfgNode = settings  # type: ignore[attr-defined]
    state = _state(Net())
    with monkeypatch.context() as installed:
        installed.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        installed.setitem(sys.modules, "yacs.config", module)
        torch.save({"model": state, "config": settings(lr=0.1)}, tmp_path / "w.pt")
    network = Net()
    load_weights(network, tmp_path / "w.pt")
    assert _holds(network, state)
    assert "yacs.config" not in sys.modules


class Own:
    """A class of the file's author."""


def test_other_objects_are_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a pickled object: [\w.]*test_placement\.Own\)"):
        _loaded({"model": _state(Net()), "config": Own()}, tmp_path)


# Folders.


def test_a_folder_of_hugging_face_s_libraries_stands_for_its_file(tmp_path: Path) -> None:
    state = _state(Net())
    for name, save in (("model.safetensors", save_file), ("pytorch_model.bin", torch.save)):
        folder, network = tmp_path / name.partition(".")[0], Net()
        folder.mkdir()
        save(state, folder / name)
        load_weights(network, folder)
        assert _holds(network, state)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.safetensors.index.json", "several files; save the network in one"),
        (".metadata", "distributed checkpoint; .*dcp_to_torch_save"),
        ("readme.txt", r"neither model\.safetensors nor pytorch_model\.bin; name the file itself$"),
        ("epoch=3-step=90.ckpt", r"name the file itself, such as .*epoch=3-step=90\.ckpt$"),
    ],
)
def test_other_folders_are_refused_with_a_way(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(ModelError, match=f"the folder has .*{said}"):
        load_weights(Net(), tmp_path)


# Numbers, and names of other libraries.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_conversion_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    notes = _loaded(Net().to(dtype).state_dict(), tmp_path)[1]
    assert notes.endswith(f"numbers in {name} are converted to float32")


def test_names_of_transformers_are_told_with_the_way(tmp_path: Path) -> None:
    names = ("resnet.embedder.embedder.convolution.weight", "classifier.1.weight")
    with pytest.raises(ModelError, match=r"Hugging Face's transformers; .*hf:\./FOLDER"):
        _loaded({name: torch.zeros(2) for name in names}, tmp_path)
