from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from jstc import export
from jstc.errors import StageError

SHAPE = (3, 16, 16)


def write(network: nn.Module, path: Path, *, opset: int = 18) -> None:
    export.write_onnx(network, path, shape=SHAPE, opset=opset, metadata={})


def logits(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def test_any_batch_size_gives_the_networks_logits(
    network: nn.Module, images: Tensor, onnx_path: Path
) -> None:
    for batch in (1, 7):
        expected = network(images[:batch])
        assert torch.allclose(logits(onnx_path, images[:batch]), expected, atol=1e-5)
    assert expected.std() > 0.01


def test_the_graph_is_plain(onnx_path: Path) -> None:
    model = onnx.load(str(onnx_path))
    assert [item.version for item in model.opset_import] == [18]
    assert [item.name for item in model.graph.input] == ["images"]
    assert [item.name for item in model.graph.output] == ["logits"]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert [file.name for file in onnx_path.parent.iterdir()] == ["model.onnx"]


def test_the_file_does_not_tell_where_it_was_made(onnx_path: Path) -> None:
    content = onnx_path.read_bytes()
    assert b"conftest" not in content
    assert b"stack_trace" not in content


def test_the_network_is_left_as_it_was(
    network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network.train().double().to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    write(network, tmp_path / "model.onnx")
    assert network.training
    assert next(network.parameters()).dtype == torch.float64
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert capfd.readouterr() == ("", "")


class Two(nn.Module):
    """Gives logits and features, in one way or another."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.fc = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> object:
        features = images.mean((2, 3))
        found = self.fc(features), features
        return found if self.form == "tuple" else {"features": found[1], "logits": found[0]}


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_of_several_outputs_the_scores_alone_are_exported(form: str, tmp_path: Path, images: Tensor) -> None:
    network = Two(form)
    write(network, tmp_path / "model.onnx")
    expected = network.fc(images.mean((2, 3)))
    assert torch.allclose(logits(tmp_path / "model.onnx", images), expected, atol=1e-6)
    assert export.parity(network, tmp_path / "model.onnx", images).max_abs_diff < 1e-6
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    assert [output.name for output in graph.output] == ["logits"]


class Fixed(nn.Module):
    """Works for a batch of two only."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, -1)[:, :4] * 2


class Branching(nn.Module):
    """Looks at its values."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() >= 0 else images.amax((2, 3))


@pytest.mark.parametrize("network", [Fixed(), Branching()])
def test_a_network_that_cannot_be_exported_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"batch size|could not export") as caught:
        write(network, tmp_path / "model.onnx")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_classifiers_are_exported(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"2 images gave \(2, 3, 16, 16\) outputs"):
        write(nn.Identity(), tmp_path / "model.onnx")


def test_an_opset_that_torch_cannot_write_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"opset 17 was asked for, but torch\.onnx can write only opset 18"):
        write(network, tmp_path / "model.onnx", opset=17)


def test_the_same_network_gives_the_same_bytes(network: nn.Module, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write(network, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0", "efficientnet_b0"]
)
def test_torchvision_networks(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = getattr(models, name)(weights=None)
    path = tmp_path / "model.onnx"
    export.write_onnx(network, path, shape=(3, 64, 64), opset=18, metadata={})
    result = export.parity(network, path, torch.randn(7, 3, 64, 64))
    assert result.max_abs_diff <= 1e-5 * max(1.0, result.max_abs_logit)
