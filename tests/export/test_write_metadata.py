from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from jstc import export
from jstc.errors import InputError


def test_metadata_comes_back_as_it_went_in(onnx_path: Path) -> None:
    assert export.read_metadata(onnx_path) == {
        "labels": ["a", "b", "c", "d", "e"],
        "input_size": [3, 16, 16],
        "flops": 1000,
        "accuracy": 0.5,
        "plan_hash": "123",
    }


def test_onnx_itself_sees_strings(onnx_path: Path) -> None:
    stored = {item.key: item.value for item in onnx.load(str(onnx_path)).metadata_props}
    assert stored["labels"] == '["a", "b", "c", "d", "e"]'
    assert stored["plan_hash"] == "123"
    assert "mean" not in stored


def test_metadata_of_another_tool_is_kept_as_text(tmp_path: Path, onnx_path: Path) -> None:
    model = onnx.load(str(onnx_path))
    onnx.helper.set_model_props(model, {"labels": "cat, dog", "author": "them"})
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    assert export.read_metadata(tmp_path / "theirs.onnx") == {"labels": "cat, dog", "author": "them"}


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x09"])
def test_a_file_that_is_not_onnx_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is not an ONNX file"):
        export.read_metadata(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing\.onnx: No such file"):
        export.read_metadata(tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="is a directory, not a file"):
        export.read_metadata(tmp_path)
