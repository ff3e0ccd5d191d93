from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jstc import export
from jstc.errors import InputError, ParityError, StageError
from jstc.export import Parity


def test_the_file_agrees_with_its_network(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    result = export.parity(network, onnx_path, images)
    assert result.max_abs_diff < 1e-5
    assert (result.top1_agreement, result.images) == (1.0, 7)
    assert result.max_abs_logit == pytest.approx(network(images).abs().max().item(), abs=1e-5)
    export.require_parity(result, max_abs_diff=1e-4)
    assert set(result.to_dict()) == {"max_abs_diff", "top1_agreement", "images", "max_abs_logit"}


def test_a_changed_network_is_found_out(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    with torch.no_grad():
        network.fc.bias += torch.tensor([0.0, 0.0, 0.5, 0.0, 100.0])
    result = export.parity(network, onnx_path, images)
    assert result.max_abs_diff == pytest.approx(100, rel=1e-5)
    assert result.top1_agreement < 1
    with pytest.raises(ParityError, match="more than rounding"):
        export.require_parity(result, max_abs_diff=1e-4)


def test_a_difference_in_a_later_chunk_counts(network: nn.Module, onnx_path: Path) -> None:
    images = torch.zeros(40, 3, 16, 16)
    images[39, 0, 0, 0] = float("nan")
    result = export.parity(network, onnx_path, images)
    assert result.images == 40
    with pytest.raises(ParityError, match="logits are infinite or undefined"):
        export.require_parity(result, max_abs_diff=1e-4)


def test_settings_of_the_caller_do_not_matter(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    network.train().to(torch.bfloat16).to(torch.float32)
    plain = export.parity(network, onnx_path, images)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert export.parity(network, onnx_path, images) == plain
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert network.training


def test_the_limit_is_one_of_the_largest_difference() -> None:
    found = Parity(max_abs_diff=3e-4, top1_agreement=1.0, images=64, max_abs_logit=512.0)
    export.require_parity(found, max_abs_diff=3e-4)
    with pytest.raises(ParityError) as caught:
        export.require_parity(found, max_abs_diff=1e-4, file="model.onnx")
    assert str(caught.value) == (
        "model.onnx and the network differ by 0.0003 in the logits of 64 images (limit 0.0001, top-1 agrees "
        "on 100.00%); that is more than rounding: try another export.opset, and look for randomness or state "
        "in the network's forward in evaluation mode"
    )


def test_right_answers_are_as_many_but_for_images_on_which_rounding_decides() -> None:
    for right in (96, 97, 99, 100):
        export.require_answers("model.onnx", right=right, expected=98, images=120, undecided=2)
    export.require_answers("model.onnx", right=98, expected=98, images=120, undecided=0)
    with pytest.raises(
        ParityError, match=r"101 of 120 test images right, the network in torch 98; .* on 2 of"
    ):
        export.require_answers("model.onnx", right=101, expected=98, images=120, undecided=2)
    with pytest.raises(ParityError, match=r"rounding decides on none of them; export again"):
        export.require_answers("model.onnx", right=97, expected=98, images=120, undecided=0)


def test_nothing_to_compare_is_refused(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    with pytest.raises(StageError, match="at least one image"):
        export.parity(network, onnx_path, images[:0])
    with pytest.raises(InputError, match="no such ONNX file"):
        export.parity(network, onnx_path.with_name("nothing.onnx"), images)


def test_images_of_another_size_are_refused(network: nn.Module, onnx_path: Path, images: Tensor) -> None:
    with pytest.raises(StageError, match=r"cannot run model\.onnx on these images"):
        export.parity(network, onnx_path, images[..., :8])
