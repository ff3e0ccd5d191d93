from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jstc.errors import ModelError
from jstc.models import checkpoints, load_weights


class Net(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def _old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if "num_batches" not in key}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": _prefixed("module.", s)},
        lambda s: _prefixed("module._orig_mod.", s),
        _old,
        lambda s: {"net": s, "acc": 93.1, "optimizer": {"state": {0: {}}, "param_groups": []}},
    ],
    ids=["plain", "state_dict", "module", "compiled", "old", "a name of its own"],
)
def test_checkpoints_of_many_forms_are_understood(tmp_path: Path, wrap: Any) -> None:
    source, target = Net(), Net()
    torch.save(wrap(dict(source.state_dict())), tmp_path / "w.pt")
    assert not _same(source, target)
    load_weights(target, tmp_path / "w.pt")
    assert _same(source, target)


def test_safetensors_are_understood(tmp_path: Path) -> None:
    source, target = Net(), Net()
    save_file(_prefixed("module.", dict(source.state_dict())), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert _same(source, target)


def test_another_number_of_classes_is_said_so(tmp_path: Path) -> None:
    target = Net(10)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    torch.save(Net(1000).state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"everything fits but the classifier 'fc': 1000 classes in the file, 10"
    ):
        load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_a_classifier_of_other_inputs_is_not_told_as_one_of_other_classes(tmp_path: Path) -> None:
    target = Net(10)
    state = dict(target.state_dict())
    state["fc.weight"] = torch.zeros(10, state["fc.weight"].shape[1] + 1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"other shapes fc\.weight \(\[10, \d+\] in the file"):
        load_weights(target, tmp_path / "w.pt")


def test_keys_and_shapes_that_differ_are_named(tmp_path: Path) -> None:
    state = dict(Net().state_dict())
    state["extra.weight"] = state.pop("conv.bias")
    state["conv.weight"] = torch.zeros(4, 1, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    message = (
        r"missing conv\.bias; unknown extra\.weight; other shapes conv\.weight \(\[4, 1, 3, 3\] in the file"
    )
    with pytest.raises(ModelError, match=message):
        load_weights(Net(), tmp_path / "w.pt")


def _unlucky() -> None:
    raise LookupError("no luck")


class Raising:
    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (_unlucky, ())


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("a checkpoint was unpickled",))


@pytest.mark.parametrize(
    "save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))], ids=["zip", "pickle"]
)
@pytest.mark.parametrize(
    "document", [Evil(), {"state_dict": Evil()}, Net()], ids=["evil", "nested", "module"]
)
def test_pickled_objects_are_never_loaded(tmp_path: Path, document: object, save: Any) -> None:
    save(document, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"pickled object|not a torch checkpoint"):
        load_weights(Net(), tmp_path / "w.pt")


def test_the_refusal_of_a_pickle_names_the_flag(tmp_path: Path) -> None:
    torch.save(Evil(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"pickled object.*add --allow-pickle$"):
        load_weights(Net(), tmp_path / "w.pt")


def test_pickles_are_loaded_for_those_who_insist(tmp_path: Path) -> None:
    source = Net()
    for document in (source, {"state_dict": source.state_dict(), "note": Fraction(1, 3)}):
        torch.save(document, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="pickled object"):
            load_weights(Net(), tmp_path / "w.pt")
        target = Net()
        load_weights(target, tmp_path / "w.pt", allow_pickle=True)
        assert _same(source, target)


def test_a_pickle_that_fails_is_one_message(tmp_path: Path) -> None:
    torch.save(Raising(), tmp_path / "r.pt")
    with pytest.raises(ModelError, match=r"r\.pt cannot be unpickled: no luck"):
        load_weights(Net(), tmp_path / "r.pt", allow_pickle=True)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"nonsense " * 9])
def test_foreign_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=name):
        load_weights(Net(), tmp_path / name)


@pytest.mark.parametrize("document", [[1, 2], {}, {"epoch": 3, "lr": 0.1}, torch.zeros(3)])
def test_checkpoints_without_a_state_dict_are_refused(tmp_path: Path, document: object) -> None:
    torch.save(document, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="expected a state dict"):
        load_weights(Net(), tmp_path / "w.pt")


def test_several_state_dicts_are_not_guessed_between(tmp_path: Path) -> None:
    student, teacher, target = Net(), Net(), Net()
    torch.save(
        {"student": student.state_dict(), "teacher": teacher.state_dict(), "epoch": 3}, tmp_path / "w.pt"
    )
    with pytest.raises(
        ModelError, match=r"several networks that fit: student, teacher; say which: .*#student'"
    ):
        load_weights(target, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt#teacher")
    assert _same(teacher, target)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights file at .*none\.pt"):
        load_weights(Net(), tmp_path / "none.pt")


def test_auxiliary_classifiers_of_published_weights_are_left_out(tmp_path: Path) -> None:
    source, target = Net(), Net()
    target.aux_logits = False  # type: ignore[assignment]
    torch.save({**source.state_dict(), "aux1.fc.weight": torch.zeros(3)}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _same(source, target)


def test_a_file_of_something_else_is_named_without_torch_s_inner_errors(tmp_path: Path) -> None:
    for text in ("junk\n", "garbage\n", "{}", "<xml>"):
        (tmp_path / "w.pt").write_text(text)
        with pytest.raises(
            ModelError, match=r"w\.pt are neither a torch checkpoint nor named \.safetensors$"
        ):
            load_weights(Net(), tmp_path / "w.pt")


def _archive(*names: str) -> bytes:
    with zipfile.ZipFile(held := io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(name, b"text")
    return held.getvalue()


def _torch_file() -> bytes:
    torch.save(Net().state_dict(), held := io.BytesIO())
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("w.pt.gz", gzip.compress(b"weights", mtime=0), "unpack the file first"),
        ("w.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
        ("w.pth", b"<!DOCTYPE html>\n<html>", "a web page"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX file"),
        ("w.npz", _archive("conv.weight.npy", "fc.npy"), "NumPy's arrays"),
        ("w.zip", _archive("model.pth"), "unpack it first"),
        ("w.pt", _torch_file()[:900], "are cut off, or damaged"),
    ],
    ids=["pointer", "pointer for safetensors", "gzip", "HDF5", "page", "ONNX", "NumPy", "zip", "cut off"],
)  # fmt: skip
def test_what_is_taken_for_weights_is_told_what_it_is(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=said):
        load_weights(Net(), tmp_path / name)


@pytest.mark.parametrize("others", [({"epoch": 3},), (), ("adam", 3)])
def test_a_state_dict_in_a_list_is_found(tmp_path: Path, others: tuple[object, ...]) -> None:
    source, target = Net(), Net()
    torch.save((*others, source.state_dict()), tmp_path / "w.pt")
    notes = load_weights(target, tmp_path / "w.pt").notes
    assert _same(source, target)
    assert f"under '{len(others)}'" in notes[0]


def test_what_counts_flops_and_losses_may_stand_among_the_weights(tmp_path: Path) -> None:
    source, target = Net(), Net()
    beside = {
        "total_ops": torch.zeros(1),
        "fc.total_params": torch.zeros(1),
        "criterion.weight": torch.ones(5),
    }
    torch.save(source.state_dict() | beside, tmp_path / "w.pt")
    [note] = load_weights(target, tmp_path / "w.pt").notes
    assert _same(source, target)
    assert "left out: total_ops, fc.total_params, criterion.weight" in note


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("running_var", float("inf"), "infinite"),
        ("running_mean", float("-inf"), "infinite"),
        ("running_var", -1.0, "no variances"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path: Path, name: str, value: float, said: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(network.state_dict() | {f"1.{name}": torch.full((4,), value)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"1\.{name}: .*{said}"):
        load_weights(network, tmp_path / "w.pt")


def _with(change: Any) -> dict[str, Tensor]:
    state = dict(Net().state_dict())
    return state | {"conv.weight": change(state["conv.weight"])}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to("meta"), "shapes without values"),
        (lambda w: w.to(torch.complex64), "complex numbers, where the network has real ones"),
        (lambda w: w.to(torch.int8), r"whole numbers \(int8\), where the network has float32"),
        (lambda w: w > 0, r"whole numbers \(bool\)"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised numbers"),
        (lambda w: torch.nested.nested_tensor(list(w)), "nested tensors"),
        (lambda w: torch.full_like(w, float("nan")), "not numbers"),
        (lambda w: torch.full_like(w, float("inf")), "infinite numbers"),
        (lambda w: w.double() + 1e300, "infinite numbers, as float32"),
    ],
)
def test_what_are_no_numbers_of_a_network_is_named_and_nothing_is_loaded(
    tmp_path: Path, change: Any, said: str
) -> None:
    torch.save(_with(change), tmp_path / "w.pt")
    target = Net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ModelError, match=rf"w\.pt: conv\.weight: {said}"):
        load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize("form", ["to_sparse", "to_sparse_csr"])
def test_sparse_weights_are_filled_up(tmp_path: Path, form: str) -> None:
    source, target = Net(), Net()
    state = dict(source.state_dict())
    torch.save(state | {"fc.weight": getattr(state["fc.weight"], form)()}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _same(source, target)


def test_numbers_of_another_width_are_converted(tmp_path: Path) -> None:
    source, target = Net(), Net()
    halves = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in source.state_dict().items()}
    torch.save(halves, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.conv.weight, source.conv.weight.to(torch.bfloat16).float())


def test_a_buffer_may_be_infinite_as_a_mask_is(tmp_path: Path) -> None:
    source, target = Net(), Net()
    for network in (source, target):
        network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _same(source, target)


def test_a_small_archive_that_stands_for_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SOUND_BYTES", 2**20)
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ModelError, match=r"w\.pt have 0\.0 MB and would take 4 MB in memory"):
        load_weights(Net(), tmp_path / "w.pt")


def test_torchscript_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # as torch.jit.save has it
        for name in ("w/data.pkl", "w/code/__torch__.py", "w/version"):
            archive.writestr(name, b"")
    with pytest.raises(ModelError, match=r"w\.pt are TorchScript"):
        load_weights(Net(), tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_read_for_those_who_insist(tmp_path: Path) -> None:
    source, target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 3))
    torch.jit.save(torch.jit.trace(source, torch.zeros(1, 3, 8, 8)), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"TorchScript.*add --allow-pickle$"):
        load_weights(target, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt", allow_pickle=True)
    assert _same(source, target)


@pytest.mark.parametrize(
    "name", ["fc.zero_point", "fc.weight_fake_quant.scale", "conv.activation_post_process.min_val"]
)
def test_what_quantisation_adds_is_told_with_the_way(tmp_path: Path, name: str) -> None:
    torch.save(dict(Net().state_dict()) | {name: torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"unknown {name}; .*save the weights from before the quantisation"):
        load_weights(Net(), tmp_path / "w.pt")
