from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from jstc.errors import RunDirectoryError
from jstc.train import checkpoint

TENSORS = {
    "half": torch.randn(3, 4).bfloat16(),
    "counter": torch.tensor(2**40 + 1),
    "double": torch.randn(2, 3, 4, dtype=torch.float64).transpose(0, 2),
    "layout": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "special": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-42]),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
}
META = {"step": 7, "plan_hash": "abc", "nested": {"list": [1, 2.5, None]}, "text": "\u00e9"}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_round_trip_is_exact_to_the_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.safetensors", TENSORS, META)
    tensors, meta = checkpoint.load(tmp_path / "c.safetensors")
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(tensors[name]) == bits(tensor)


def test_equal_states_give_equal_files_and_tied_tensors_are_allowed(tmp_path: Path) -> None:
    tied = torch.randn(4)
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, {"x": tied, "y": tied[:2], **TENSORS}, META)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_library_can_read_the_tensors(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.safetensors", TENSORS, META)
    assert torch.equal(safetensors.torch.load_file(tmp_path / "c.safetensors")["half"], TENSORS["half"])


def damaged(data: bytes) -> dict[str, bytes]:
    return {
        "truncated": data[:-3],
        "cut in the header": data[:20],
        "empty": b"",
        "foreign": b"PK\x03\x04 something else entirely",
        "changed tensor": data[:-1] + bytes([data[-1] ^ 1]),
        "changed meta": data.replace(b'\\"step\\": 7', b'\\"step\\": 8'),
    }


@pytest.mark.parametrize("kind", damaged(b"x" * 30))
def test_damaged_files_are_refused_with_a_next_step(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"x": torch.arange(4)}, META)
    data = damaged(path.read_bytes())[kind]
    assert data != path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(RunDirectoryError, match=r"c\.safetensors .*delete it .*--fresh"):
        checkpoint.load(path)


def test_missing_and_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        checkpoint.load(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "f.safetensors")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        checkpoint.load(tmp_path / "f.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"x": torch.ones(2)}, {})

    def fail(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"x": torch.zeros(2)}, {})
    assert torch.equal(checkpoint.load(path)[0]["x"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_parts_are_joined_and_taken_apart() -> None:
    parts = {
        "network": {"a.weight": torch.ones(1)},
        "momentum": {"a.weight": torch.zeros(1), "b": torch.ones(2)},
    }
    joined = checkpoint.join(**parts)
    assert joined.keys() == {"network.a.weight", "momentum.a.weight", "momentum.b"}
    assert {name: checkpoint.part(joined, name) for name in parts} == parts


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 1, "sha256": "x", "meta": {"loss": NaN}}'])
def test_a_description_that_nobody_writes_is_refused(tmp_path: Path, text: str) -> None:
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "c.safetensors", metadata={"jstc": text})
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        checkpoint.load(tmp_path / "c.safetensors")
