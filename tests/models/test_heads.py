"""Weights for other classes: the classifier starts anew, and nothing but the classifier."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from jstc.errors import ModelError
from jstc.models import ModelSpec, spec
from jstc.models.weights import fit

SIDE = 32


def small(classes: int = 3, side: int = SIDE, name: str = "net.py:make") -> ModelSpec:
    return spec(name, num_classes=classes, in_channels=3, height=side, width=side)


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """Its classifier is made before the rest, and called after it."""

    def __init__(self, classes: int = 3, head: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(8, classes) if head is None else head(classes)
        self.body = nn.Sequential(conv(3, 8), conv(8, 8))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(self.body(images)))
        return scores


def two_layers(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes))


class WithAuxiliary(Net):
    """Its second head is called in training mode alone."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__(classes)
        self.aux = nn.Linear(8, classes)


class TwoHeads(Net):
    """The scores are the mean of two classifiers', as in distilled transformers."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__(classes)
        self.other = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.body(images))
        return (self.head(features) + self.other(features)) / 2


def without(tensors: dict[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(beginnings)}


LIBRARY = {
    "resnet18": ("fc",),
    "squeezenet1_1": ("classifier.1",),
    "mobilenet_v3_small": ("classifier.3",),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_published_networks_start_with_a_classifier_for_other_classes(name: str) -> None:
    with torch.random.fork_rng():
        theirs = torchvision.models.get_model(name, weights=None, num_classes=10)
        ours = torchvision.models.get_model(name, weights=None, num_classes=3)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    fitted = fit(ours, theirs.state_dict(), "theirs", small(3, 64, name))
    assert fitted.new_head == LIBRARY[name]
    assert fitted.notes == (f"weights theirs are for 10 classes, 3 here: `{LIBRARY[name][0]}` starts anew",)
    for key, tensor in ours.state_dict().items():
        own = key.startswith(f"{LIBRARY[name][0]}.")
        assert torch.equal(tensor, before[key] if own else theirs.state_dict()[key]), key


def test_a_headless_file_leaves_the_classifier_new() -> None:
    fitted = fit(Net(), without(Net().state_dict(), "head."), "theirs", small())
    assert fitted.new_head == ("head",)
    assert fitted.notes == ("weights theirs have no such classifier: `head` starts anew",)


def test_the_same_classes_leave_nothing_new() -> None:
    assert fit(Net(), Net().state_dict(), "theirs", small()).new_head == ()


@pytest.mark.parametrize("missing", [True, False])
def test_a_classifier_of_several_layers_starts_anew_as_a_whole_or_in_its_last(missing: bool) -> None:
    tensors = Net(7, two_layers).state_dict()
    fitted = fit(Net(3, two_layers), without(tensors, "head.") if missing else tensors, "theirs", small())
    assert fitted.new_head == (("head.0", "head.1", "head.3") if missing else ("head.3",))


def test_a_classifier_of_another_form_takes_the_place_of_theirs() -> None:
    """`model.fc = nn.Sequential(...)` on top of published weights, and the other way round."""
    assert fit(Net(3, two_layers), Net(9).state_dict(), "theirs", small()).new_head[-1] == "head.3"
    assert fit(Net(3), Net(9, two_layers).state_dict(), "theirs", small()).new_head == ("head",)


@pytest.mark.parametrize(
    ("make", "layers"), [(WithAuxiliary, ("head", "aux")), (TwoHeads, ("head", "other"))]
)
def test_several_heads_start_anew_together(make: Callable[[int], nn.Module], layers: tuple[str, ...]) -> None:
    assert fit(make(3), make(9).state_dict(), "theirs", small()).new_head == layers


WRONG: dict[str, Callable[[], dict[str, Tensor]]] = {
    "a layer before the classifier is missing": lambda: without(Net(9).state_dict(), "body.1.0."),
    "the classifier and what is before it": lambda: without(Net().state_dict(), "head.", "body.1."),
    "half of the classifier": lambda: without(Net().state_dict(), "head.bias"),
    "features of another width": lambda: Net().state_dict() | {"head.weight": torch.zeros(9, 16)},
    "something else beside it": lambda: Net(9).state_dict() | {"projector.weight": torch.zeros(2, 2)},
    "nothing that fits": lambda: {"a.weight": torch.zeros(3)},
    "all of it": lambda: {"head.weight": torch.zeros(3, 8), "head.bias": torch.zeros(3)},
}


@pytest.mark.parametrize("tensors", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused_and_nothing_is_changed(tensors: Callable[[], dict[str, Tensor]]) -> None:
    network = Net()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match="do not fit the network"):
        fit(network, tensors(), "theirs", small())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_a_layer_in_the_middle_with_as_many_rows_as_classes_is_none() -> None:
    class Middle(nn.Module):
        """Made last, called first."""

        def __init__(self, rows: int) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.first = nn.Linear(3, rows)

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.last(self.first(images.mean((2, 3)))[:, :3].repeat(1, 2)[:, :4])
            return scores

    with pytest.raises(ModelError, match="do not fit"):
        fit(Middle(3), Middle(5).state_dict(), "theirs", small())


def test_finding_it_leaves_the_network_and_the_random_state_as_they_were() -> None:
    network = Net()
    network.body.train()
    network.head.eval()
    tensors, state = Net(9).state_dict(), torch.get_rng_state()
    fit(network, tensors, "theirs", small())
    assert torch.equal(torch.get_rng_state(), state)
    assert (network.training, network.body.training, network.head.training) == (True, True, False)
    assert not any(module._forward_pre_hooks for module in network.modules())
