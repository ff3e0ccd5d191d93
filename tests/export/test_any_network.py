"""Networks of any kind as ONNX: names, sizes, parity of every output, and what is refused."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import jstc
from jstc.errors import ChannelError, InputError, ParityError, StageError
from jstc.export import any_network, read_metadata
from jstc.export.any_network import Exported, OutputParity
from jstc.export.calls import Call, dynamic_sizes, runs
from tests.helpers.task_networks import Detector, Encoder, Segmentation, TwoInputs


def answers(path: Path, **inputs: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, feed), strict=True))


@dataclass(frozen=True)
class Written:
    slim: jstc.Slim
    path: Path
    result: Exported


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A slim encoder on keywords, for any number of texts of any length."""
    torch.manual_seed(0)
    model = Encoder()
    ids, mask = torch.randint(40, (1, 7)), torch.ones(1, 7, dtype=torch.long)
    channels = jstc.analyse(model, {"ids": ids, "mask": mask})
    plan = channels.uniform_plan(flops=0.6)
    slim = jstc.Slim.of(channels, plan, channels.slice(model, plan).train().to(torch.float64))
    path = tmp_path_factory.mktemp("any") / "encoder.onnx"
    dynamic = {name: {1: "tokens"} for name in ("ids", "mask")}
    result = jstc.export_onnx(slim, {"ids": ids, "mask": mask}, path, dynamic=dynamic)
    return Written(slim, path, result)


def test_a_file_takes_any_number_of_texts_of_any_length(encoder):
    assert encoder.result.inputs == {"ids": ("batch", "tokens"), "mask": ("batch", "tokens")}
    assert encoder.result.runs == ({"batch": 1, "tokens": 7}, {"batch": 2, "tokens": 14})
    [output] = encoder.result.outputs
    assert (output.name, output.shape, output.type) == ("output", ("batch", "tokens", 40), "float32")
    ids, mask = torch.randint(40, (5, 11)), torch.ones(5, 11, dtype=torch.long)
    mask[2, 6:] = 0
    with torch.no_grad():
        expected = encoder.slim.network.float().eval()(ids, mask)
    found = answers(encoder.path, ids=ids, mask=mask)["output"]
    assert np.abs(found - expected.numpy()).max() < 1e-5
    assert 0 < encoder.result.max_abs_diff < 1e-4


def test_the_file_knows_its_weights_and_figures_by_name(encoder):
    names = {item.name for item in onnx.load(str(encoder.path)).graph.initializer}
    assert {"norm.weight", "qkv.bias"} <= names
    assert not any(name.startswith(("network.", "jstc.")) for name in names)
    found = read_metadata(encoder.path)
    assert found["sizes"] == {"batch": 1, "tokens": 7} and found["precision"] == "fp32"
    assert (found["flops"], found["params"]) == (encoder.slim.cost.flops, encoder.slim.cost.params)
    assert found["plan_hash"] == encoder.slim.plan.hash
    document = json.loads(json.dumps(encoder.result.to_dict()))
    assert document["outputs"][0]["name"] == "output" and document["path"] == str(encoder.path)


Pair = namedtuple("Pair", "first second")


class Everything(nn.Module):
    """Gives values of all forms, some of them twice, some under names that are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, *more: Tensor, scale: float = 1.0) -> dict[str, object]:
        y = self.linear(x + sum(more)) * scale
        below = y.masked_fill(y > 0, float("-inf"))
        return {
            "linear": y, "relu": [y, (y.relu(), None)], "x": x, "ones": torch.ones(3), "turned": y.T,
            "best": y.argmax(1), "count": 3, "text": "t", "below": below, "mean": y.mean(),
            "pair": Pair(y, 2 * y), "object": SimpleNamespace(inner=y > 0),
        }  # fmt: skip


def test_every_output_of_whatever_form_is_in_the_file(tmp_path):
    x, network = torch.randn(2, 4), Everything().eval()
    result = jstc.export_onnx(network, ((x, x + 1), {"scale": 0.5}), tmp_path / "all.onnx")
    shapes = {one.name: one.shape for one in result.outputs}
    assert shapes == {
        "linear": ("batch", 4), "relu_0": ("batch", 4), "relu_1_0": ("batch", 4), "x_out": ("batch", 4),
        "ones": (3,), "turned": (4, "batch"), "best": ("batch",), "below": ("batch", 4), "mean": (),
        "pair_first": ("batch", 4), "pair_second": ("batch", 4), "object_inner": ("batch", 4),
    }  # fmt: skip
    assert {one.name: one.type for one in result.outputs}["best"] == "int64"
    assert list(result.inputs) == ["x", "input_1"]
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = network(x, x, scale=0.5)
    found = answers(tmp_path / "all.onnx", x=x, input_1=x)
    assert np.allclose(found["linear"], expected["linear"], atol=1e-6)
    assert np.array_equal(found["x_out"], x) and np.array_equal(found["best"], expected["best"])
    assert np.allclose(found["pair_second"], expected["pair"].second, atol=1e-6)


def test_a_fixed_batch_and_picked_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Detector()

        def forward(self, batch):
            return self.inner(batch["images"][0])

    example = ({"images": [torch.randn(1, 3, 16, 16)]},)
    result = jstc.export_onnx(
        Two(),
        example,
        tmp_path / "d.onnx",
        batch=3,
        outputs=lambda found: {"boxes": [one.boxes for one in found]},
    )
    assert result.inputs == {"batch_images_0": (3, 3, 16, 16)} and result.runs == ({},)
    assert [(one.name, one.shape) for one in result.outputs] == [
        ("boxes_0", (3, 4, 8, 8)),
        ("boxes_1", (3, 4, 4, 4)),
    ]


class Remembers(nn.Module):
    """Makes a grid anew where the sizes are others than in the last forward, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.sizes: object = None
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.sizes != y.shape:
            self.sizes, self.grid = y.shape, torch.arange(y.shape[3])
        return y + self.grid


def test_sizes_that_a_network_remembers_do_not_become_constants(tmp_path):
    network = Remembers()
    network.last = network(torch.randn(2, 3, 4, 4))  # a batch that it is also compared at
    assert not network.last.is_leaf
    result = jstc.export_onnx(network, torch.randn(1, 3, 4, 4), tmp_path / "r.onnx")
    assert result.outputs[0].shape == ("batch", 2, 4, 4)


class Noisy(nn.Module):
    """Answers differently whenever it is asked."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"same": 2 * x, "noise": x + torch.rand_like(x)}


def test_a_file_that_disagrees_leaves_nothing_behind(tmp_path):
    (tmp_path / "old.onnx").write_bytes(b"before")
    with pytest.raises(ParityError, match=r"old\.onnx and the network differ in 1 of 2 outputs") as caught:
        jstc.export_onnx(Noisy(), torch.randn(2, 4), tmp_path / "old.onnx")
    assert caught.value.details[0].startswith("noise: by 0.")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


# -- what is compared, without an export each -------------------------------------------------------------


def test_a_file_of_other_weights_is_found_out(encoder, monkeypatch):
    other = Encoder()
    call = Call.of(other, {"ids": torch.randint(40, (2, 7)), "mask": torch.ones(2, 7)}, None)
    with pytest.raises(StageError, match=r"cannot run e\.onnx on ids \[2, 7\], mask \[2, 7\]"):
        any_network._compared(encoder.path, "e.onnx", [call], 1e-4)  # the mask is of whole numbers
    call = Call.of(other, {"ids": torch.randint(40, (2, 7)), "mask": torch.ones(2, 7).long()}, None)
    with pytest.raises(ParityError, match="differ in 1 of 1 outputs"):
        any_network._compared(encoder.path, "e.onnx", [call], 1e-4)
    same = Call.of(encoder.slim.network.float().eval(), call.inputs, None)
    [found] = any_network._compared(encoder.path, "e.onnx", [same], 1e-4)
    assert found.max_abs_diff < 1e-4
    (encoder.path.parent / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(StageError, match="onnxruntime cannot run the exported graph"):
        any_network._compared(encoder.path.parent / "broken.onnx", "e.onnx", [same], 1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "difference", "excess"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 2500),
        ([0.0, 1000.0], [0.05, 1000.0], 0.05, 0.5),  # of a box in pixels: in units of its largest value
        ([float("-inf"), 1.0], [float("-inf"), 1.0], 0.0, 0.0),
        ([float("inf"), 1.0], [1.0, 1.0], float("inf"), float("inf")),
        ([float("nan"), 1.0], [float("nan"), 1.0], None, float("inf")),
        ([], [], 0.0, 0.0),
    ],
)
def test_differences_are_in_units_of_the_output(ours, theirs, difference, excess):
    found = any_network._parity("y", (2,), torch.tensor(ours), np.array(theirs, np.float32), 1e-4)
    assert found.excess == pytest.approx(excess, rel=1e-4)
    if difference is not None:
        assert found.max_abs_diff == pytest.approx(difference, abs=1e-6)


def test_whole_numbers_must_be_equal_and_shapes_too():
    ids = torch.tensor([30_000, 7])
    assert any_network._parity("y", (2,), ids, ids.numpy(), 1e-4).excess == 0
    one = any_network._parity("y", (2,), ids, ids.numpy() + 1, 1e-4)
    assert one == OutputParity("y", (2,), "int64", 1.0, 0.0, 30_000.0) and one.excess > 1
    with pytest.raises(ParityError, match=r"'y' has the shape \[3\] in ONNX and \[2\] in torch"):
        any_network._parity("y", (2,), ids, np.zeros(3), 1e-4)


def test_sizes_that_a_network_takes_are_tried(monkeypatch):
    calls = []

    class Short(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(10))

        def forward(self, x):
            calls.append(tuple(x.shape))
            return x + self.positions[: x.shape[1]]

    call = Call.of(Short(), torch.randn(2, 8), None)
    sizes = dynamic_sizes(call, "dynamic", {"x": {1: "length"}})
    assert [run.named(sizes) for run in runs(call, sizes)] == [
        {"batch": 2, "length": 8},
        {"batch": 3, "length": 4},
    ]
    assert calls == [(2, 8), (3, 16), (3, 4)]
    assert len(list(runs(call, {}))) == 1


def test_inputs_that_share_the_first_size_have_the_batch():
    mask = torch.ones(7, 7)
    call = Call.of(
        lambda_of(lambda x, mask, y: x @ mask + y), (torch.randn(2, 7), mask, torch.randn(2, 7)), None
    )
    assert dynamic_sizes(call, "dynamic", {}) == {"x": {0: "batch"}, "y": {0: "batch"}}
    for batch in (4, None):
        assert dynamic_sizes(call, batch, {"mask": {0: "rows"}}) == {"mask": {0: "rows"}}


def lambda_of(function) -> nn.Module:
    """A module whose forward is a function."""
    module = nn.Module()
    module.forward = function
    return module


# -- what is refused before anything is exported ----------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "options", "match"),
    [
        ("text", {}, "there is no tensor in it"),
        ((torch.randn(2, 3, 9, 9), torch.randn(2, 5)), {}, "cannot run the example: RuntimeError"),
        (torch.randn(2, 3, 9, 9), {}, "cannot run the example: TypeError"),
        ((torch.randn(2, 3, 9, 9), torch.randn(2, 4)), {"batch": 0}, "batch=0: expected 'dynamic'"),
        ((torch.randn(2, 3, 9, 9), torch.randn(2, 4)), {"batch": "any"}, "batch='any'"),
        (
            (torch.randn(2, 3, 9, 9), torch.randn(2, 4)),
            {"dynamic": {"images": {2: "height"}}},
            "there is no input 'images'; there are image, figures",
        ),
        (
            (torch.randn(2, 3, 9, 9), torch.randn(2, 4)),
            {"dynamic": {"image": {4: "height"}}},
            r"names no dimension of 'image' \[2, 3, 9, 9\]",
        ),
        (
            (torch.randn(2, 3, 9, 9), torch.randn(2, 4)),
            {"dynamic": {"image": {2: "side"}, "figures": {1: "side"}}},
            "'side' is 4 in 'figures' and 9 elsewhere",
        ),
        (
            (torch.randn(2, 3, 9, 9), torch.randn(2, 4)),
            {"outputs": lambda found: found[0].shape},
            "gives no tensor for the example",
        ),
        (
            (torch.randn(2, 3, 9, 9), SimpleNamespace(x=torch.randn(2, 4))),
            {},
            "a SimpleNamespace holds tensors",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_export(example, options, match, tmp_path):
    with pytest.raises(InputError, match=match):
        jstc.export_onnx(TwoInputs(), example, tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_networks_that_cannot_be_exported_as_they_are(tmp_path):
    network: Any = Segmentation()
    with pytest.raises(ChannelError, match="was wrapped by DataParallel"):
        jstc.export_onnx(nn.DataParallel(network), torch.randn(1, 3, 8, 8), tmp_path / "model.onnx")
    network.lines = (line for line in "abc")
    with pytest.raises(StageError, match="the network cannot be copied"):
        jstc.export_onnx(network, torch.randn(1, 3, 8, 8), tmp_path / "model.onnx")


def test_the_network_is_left_as_it_is(tmp_path):
    network = Segmentation().train().half()
    with pytest.raises(InputError):
        jstc.export_onnx(network, torch.randn(1, 4, 8, 8), tmp_path / "model.onnx")
    assert network.training and network.main.weight.dtype == torch.float16
