"""What can only fail after training is found by trying the network before it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jstc.channels import analyse
from jstc.errors import ModelError
from jstc.plan import Plan
from jstc.runs.network_trial import Found, Trial, require_float32, require_same_build

SHAPE = (3, 8, 8)
CPU = torch.device("cpu")


class Net(nn.Module):
    """Two convolutions and a layer for scores; tests give it another forward."""

    def __init__(self, forward: Any = None, **more: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.out = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.Linear(6, 5),
        )
        for name, value in more.items():
            setattr(self, name, value)
        self.way = forward

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.norm(self.a(x)))))

    def scores(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.scores(x) if self.way is None else self.way(self, x)


def trial(**more: Any) -> Trial:
    return Trial(SHAPE, 5, CPU, dataset="images", **more)


def notes(forward: Any = None, *, settings: dict[str, Any] | None = None, **more: Any) -> str:
    return "\n".join(trial(**settings or {}).whole(Net(forward, **more)).notes)


def refused(forward: Any, message: str, *, settings: dict[str, Any] | None = None, **more: Any) -> ModelError:
    with pytest.raises(ModelError, match=message) as caught:
        trial(**settings or {}).whole(Net(forward, **more))
    return caught.value


def test_an_ordinary_network_passes_without_a_word_and_nothing_random_is_used_up() -> None:
    network = Net(lambda net, x: net.scores(F.dropout(x, 0.5, net.training)))
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert trial().whole(network) == Found(())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]


@pytest.mark.parametrize("wrap", [lambda s: (s, s), lambda s: {"logits": s, "more": s[:, :2]}])
def test_an_auxiliary_output_of_training_alone_is_fine(wrap: Any) -> None:
    assert notes(lambda net, x: wrap(net.scores(x)) if net.training else net.scores(x)) == ""


# -- random in evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "drawn"),
    [
        (lambda net, x: net.scores(F.dropout(x)), "dropout in line"),
        (lambda net, x: net.scores(x + torch.randn_like(x)), "randn_like in line"),
        (lambda net, x: net.scores(x * torch.bernoulli(torch.full_like(x, 0.5))), "bernoulli in line"),
        (lambda net, x: net.scores(x[:, :, torch.randperm(8)]), "randperm in line"),
        (lambda net, x: net.scores(x * random.random()), "Python's random"),
        (lambda net, x: net.scores(x * np.random.rand()), r"numpy\.random"),
        (lambda net, x: net.scores(nn.Dropout(0.5)(x)), "dropout in line"),
    ],
)
def test_random_numbers_in_evaluation_are_named(forward: Any, drawn: str) -> None:
    error = refused(forward, rf"two evaluations of the same images differ by [\d.e-]+: .* \({drawn}")
    assert "self.training" in error.advice
    if "in line" in drawn:
        assert "of test_network_trial.py)" in error.problem


def test_random_numbers_that_no_answer_shows_yet_are_a_note() -> None:
    head = nn.Linear(6, 5, bias=False)
    nn.init.zeros_(head.weight)
    said = notes(lambda net, x: net.head(F.dropout(net.features(x).mean((2, 3)))), head=head)
    assert "draws random numbers in evaluation too (dropout in line" in said


def counting(net: Any, x: Tensor) -> Tensor:
    net.calls += 1
    return net.scores(x) * net.calls


def test_what_is_kept_from_call_to_call_is_found() -> None:
    class Counts(Net):
        calls: Any = 0

    with pytest.raises(ModelError, match="depends on something beside its images and weights"):
        trial().whole(Counts(counting))
    network = Net(counting)
    network.register_buffer("calls", torch.zeros(()))
    with pytest.raises(ModelError, match="the forward changes calls, and uses that in the next call"):
        trial().whole(network)


def test_images_that_the_forward_changes_are_told_as_that() -> None:
    found = refused(lambda net, x: net.scores(x.sub_(0.5)), "changes the images that it is given")
    assert "clone" in found.advice
    assert not notes(lambda net, x: net.scores(x.clone().sub_(0.5)))


def test_a_buffer_that_evaluations_change_is_a_note() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        net.seen.add_(len(x))
        return net.scores(x)

    network = Net(forward)
    network.register_buffer("seen", torch.zeros(()))
    [said] = trial().whole(network).notes
    assert said.startswith("an evaluation changes seen of the network")


# -- outputs ------------------------------------------------------------------------------------------------


def test_a_batch_of_one_keeps_its_dimension() -> None:
    error = refused(lambda net, x: net.scores(x).squeeze(), r"1 image gave \[5\]; expected \[1, 5\]")
    assert "squeeze((2, 3))" in error.advice
    refused(lambda net, x: net.scores(x)[:, :, None].squeeze()[:2], r"1 image gave \[2\]")


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.features(x), r"2 images gave \[2, 6, 8, 8\]; expected class scores"),
        (lambda net, x: net.scores(x)[:, :4], r"gives 4 scores for an image, dataset 'images' has 5 classes"),
        (
            lambda net, x: (x.mean((2, 3)), net.scores(x)),
            r"gives 3 scores .* in tuple \(\[2, 3\], \[2, 5\]\)",
        ),
        (lambda net, x: {"a": net.scores(x), "b": x}, r"returned dict \(a: \[2, 5\], b: .*name 'logits'"),
        (lambda net, x: net.nothing, "AttributeError: .*'nothing', in line .* of test_network_trial.py"),
        (
            lambda net, x: net.scores(x[:, :2]),
            "forward failed for 2 images of 3x8x8 from 'images': RuntimeEr",
        ),
    ],
)
def test_what_is_no_scores_is_refused(forward: Any, message: str) -> None:
    refused(forward, message)


@pytest.mark.parametrize(
    ("classes", "forward", "way"),
    [
        (5, lambda net, x: net.scores(x)[:, :, None, None], "with .flatten(1)"),
        (5, lambda net, x: (x.mean((2, 3)), net.scores(x)), "return number 2 of these"),
        (5, lambda net, x: {"logits": x.mean((2, 3)), "scores": net.scores(x)}, "return 'scores' of these"),
        (2, lambda net, x: net.scores(x)[:, :1], "torch.cat([torch.zeros_like(x), x], 1)"),
        (2, lambda net, x: net.scores(x)[:, 0], "torch.zeros_like(x[:, None]), x[:, None]], 1)"),
        (5, lambda net, x: net.scores(x)[:, :1], "give its last layer 5 outputs"),
    ],
)
def test_where_a_line_of_code_gives_scores_it_is_named(classes: int, forward: Any, way: str) -> None:
    with pytest.raises(ModelError) as caught:
        Trial(SHAPE, classes, CPU, dataset="images").whole(Net(forward))
    assert way in caught.value.advice


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda s: s.softmax(1), "sum to 1: a softmax"),
        (lambda s: s.softmax(1).view(len(s), -1).clone(), "sum to 1: a softmax"),
        (lambda s: s.exp() / s.exp().sum(1, keepdim=True), "sum to 1: a softmax"),
        (torch.sigmoid, "lie between 0 and 1: a sigmoid"),
        (F.hardsigmoid, "lie between 0 and 1: a sigmoid"),
        (lambda s: s.log_softmax(1), ""),  # cross-entropy of these is that of the scores
        (lambda s: s * s.softmax(1), ""),
        (lambda s: s.sigmoid() + 1, ""),
    ],
)
def test_probabilities_are_noted(end: Any, said: str) -> None:
    found = notes(lambda net, x: end(net.scores(x)))
    assert said in found if said else found == ""


def test_answers_that_depend_on_the_batch_are_noted() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    assert "depend on the others in its batch" in notes(lambda net, x: net.scores(net.own(x)), own=norm)


def test_scores_that_are_no_numbers_are_noted() -> None:
    assert "scores of random images are infinite or no numbers" in notes(lambda net, x: net.scores(x).log())


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.scores(x if x.sum() > 0 else -x),
        lambda net, x: net.scores(x * x.max().item()),
        lambda net, x: net.scores(x[:, :, : int(x.amax() > 9) or None]),
    ],
)
def test_places_where_values_are_read_are_known(forward: Any) -> None:
    [place] = trial().whole(Net(forward)).reads
    assert place.startswith("in line")
    assert place.endswith("of test_network_trial.py")


def test_a_size_that_the_network_takes_is_named() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.scores(x) + net.more(x.mean((1, 2)))

    error = refused(forward, r"failed for 2 images of 3x8x8 .*\(2x8 and 64x1\)", more=nn.Linear(64, 1))
    assert error.advice == "it takes images of 64x64: --set input.image_size=64"
    assert refused(forward, "failed for 2 images", more=nn.Linear(17, 1)).advice == ""


# -- layers that are not the network's ----------------------------------------------------------------------

ELSEWHERE = nn.Conv2d(3, 3, 1)
SCALE = torch.ones(1, requires_grad=True)


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (lambda net, x: net.scores(net.own[0](x)), r"own\[0\] \(Conv2d\);"),
        (lambda net, x: net.scores(net.own[1]["x"](x)), r"own\[1\]\['x'\] \(Conv2d\);"),
        (lambda net, x: net.scores(x * net.own[2]), r"own\[2\];"),
        (lambda net, x: net.scores(net._own["y"](x)), r"_own\['y'\] \(Conv2d\);"),
        (lambda net, x: net.scores(net.own[3](x)), r"own\[3\] \(BatchNorm2d\);"),
        (lambda net, x: net.scores(ELSEWHERE(x)), "a Conv2d;"),
        (lambda net, x: net.scores(nn.Conv2d(3, 3, 1)(x)), "a Conv2d;"),
        (lambda net, x: net.scores(x * SCALE), r"a parameter \[1\];"),
        (lambda net, x: net.scores(F.conv2d(x, ELSEWHERE.weight)), r"a parameter \[3, 3, 1, 1\];"),
    ],
)
def test_layers_that_the_network_does_not_have_are_named(forward: Any, named: str) -> None:
    own = [
        nn.Conv2d(3, 3, 1),
        {"x": nn.Conv2d(3, 3, 1)},
        nn.Parameter(torch.ones(1)),
        nn.BatchNorm2d(3, affine=False),
    ]
    hidden = {"y": nn.Conv2d(3, 3, 1)}
    error = refused(forward, f"layers that are not registered in the network: {named}", own=own, _own=hidden)
    assert "nn.ModuleList" in error.advice


def test_views_of_own_parameters_and_modules_without_any_are_its_own() -> None:
    token = nn.Parameter(torch.ones(1, 3, 1, 1))
    assert (
        notes(lambda net, x: nn.ReLU()(net.scores(x * net.own.expand(len(x), -1, -1, -1))), own=token) == ""
    )


# -- a training step ----------------------------------------------------------------------------------------


def test_what_only_training_does_is_tried() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.scores(x[:, :2] if net.training else x)

    refused(forward, "a training step of 2 images fails, where their evaluation works: RuntimeError: Given")
    refused(
        lambda net, x: net.scores(x)[: 1 + (not net.training)], r"2 images gave \[1, 5\] in training mode"
    )
    refused(
        lambda net, x: (x, net.scores(x)) if net.training else net.scores(x),
        r"fails.* 2 images gave tuple \(",
    )
    refused(lambda net, x: net.scores(x).detach(), "a training step of 2 images fails")


def test_changes_in_place_of_what_the_gradient_needs_are_found() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = torch.sigmoid(net.features(x))
        x += 1
        return net.out(x.mean((2, 3)))

    refused(forward, "modified by an inplace operation")


def through_numpy(net: Net, x: Tensor) -> Tensor:
    x = net.norm(net.a(x))
    mean = torch.from_numpy(x.detach().numpy().mean(axis=(2, 3)))
    return net.out(net.b(x - mean[:, :, None, None]).mean((2, 3)))


def test_a_precision_that_does_not_work_is_named() -> None:
    assert notes(through_numpy) == ""
    settings = {"dtype": torch.bfloat16, "precision": "auto"}
    error = refused(through_numpy, r"fails in bfloat16 \(train.precision=auto, here", settings=settings)
    assert "TypeError: " in error.problem
    assert "train.precision=float32" in error.advice


def test_a_part_of_one_image_is_tried_where_the_run_has_such() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.out(net.b(net.norm(net.a(x).mean((2, 3), keepdim=True))).mean((2, 3)))

    assert notes(forward) == ""
    error = refused(
        forward, "a training step of one image fails, and one of two works", settings={"smallest": 1}
    )
    assert "train.batch_size" in error.advice


def test_parameters_without_a_gradient_are_noted() -> None:
    said = notes(unused=nn.Linear(4, 3), more=nn.Parameter(torch.ones(2)))
    assert "no gradient reaches 17 parameters (more, unused.weight, unused.bias)" in said
    frozen = Net()
    frozen.a.requires_grad_(False)
    assert trial().whole(frozen) == Found(())
    with pytest.raises(ModelError, match="requires_grad is False for all"):
        trial().whole(frozen.requires_grad_(False))


class Denoising(nn.Module):
    """A branch that training alone takes, with a width that the analysis has not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.extra, self.head = nn.Linear(64, 32), nn.Embedding(10, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x.flatten(2))
        if self.training:
            y = torch.cat([self.extra(torch.zeros(len(x), 3, dtype=torch.long)), y], 1)
        return self.head(y).mean(1)


def test_a_cut_network_is_tried_in_training_mode() -> None:
    network = Denoising()
    assert trial().whole(network) == Found(())
    channels = analyse(network, torch.zeros(1, *SHAPE))
    plan = Plan({group.name: (0,) for group in channels.groups}, channels.widths)
    small = channels.gated(channels.slice(network, plan), plan)
    with pytest.raises(ModelError, match="the smallest sub-network fails in a training step") as caught:
        trial().cut(small)
    assert "channels.ignore" in caught.value.advice
    kept = channels.gated(channels.slice(network, channels.full_plan), channels.full_plan)
    trial().cut(kept)


# -- without running it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_than_float32_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match=f"in {str(dtype)[6:]} .a.weight, a.bias, norm.weight and 5 more"):
        require_float32(Net().to(dtype))
    mixed = Net()
    mixed.out.to(dtype)
    with pytest.raises(ModelError, match=r"\(out.weight, out.bias\); weights are trained in float32"):
        require_float32(mixed)
    network = Net()
    network.register_buffer("positions", torch.zeros(3, dtype=dtype))
    require_float32(network)


def test_two_builds_are_alike() -> None:
    require_same_build(Net().to("meta"), Net())
    with pytest.raises(ModelError, match=r"'out.weight' was \[5, 6\] and \[4, 6\]"):
        require_same_build(Net(), Net(out=nn.Linear(6, 4)))
    with pytest.raises(ModelError, match=r"'more.weight' was nothing and \[1, 1\]"):
        require_same_build(Net(), Net(more=nn.Linear(1, 1)))
