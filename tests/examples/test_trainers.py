"""The examples with other people's trainers run, at a tiny size, and leave what they promise."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "keyword_spotter": (),
    "lightning_digits": ("lightning",),
    "hf_image": ("transformers", "accelerate"),
    "hf_text": ("transformers", "accelerate"),
    "timm_digits": ("timm",),
}


@pytest.mark.filterwarnings("ignore")  # other people's trainers warn of what a tiny run does not have
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_ends_with_a_slim_network_and_two_files(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"examples/{name}.py trains with {package}")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(out=tmp_path, rounds=1, tiny=True)
    told = capsys.readouterr().out
    assert "whole: accuracy 0." in told and "slim: accuracy 0." in told
    document = json.loads((tmp_path / "slim" / "model.json").read_text())
    described = json.loads((tmp_path / "search" / "search.json").read_text())
    assert document["cost"]["flops"] <= described["flops"] / 2
    assert 0 <= document["score"] <= 1
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"whole.onnx", "slim.onnx"}


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 100
