from __future__ import annotations

import json
from typing import Any

import pytest

from jstc.errors import ModelError
from jstc.models import ModelSpec, spec

GOOD = {"name": "resnet20", "num_classes": 10, "in_channels": 3, "height": 32, "width": 32, "cifar": True}


def _spec(name: str, side: int, *, cifar: bool = False) -> ModelSpec:
    return spec(name, num_classes=10, in_channels=3, height=side, width=side, cifar=cifar)


def test_json_round_trip() -> None:
    made = _spec("resnet20", 32)
    assert made.to_dict() == GOOD
    assert ModelSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.input_shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "side", "cifar", "form"),
    [
        ("resnet20", 224, False, True),
        ("vgg16_bn", 32, False, True),
        ("vgg16_bn", 64, False, True),
        ("vgg16_bn", 65, False, False),
        ("vgg16_bn", 224, True, True),
        ("resnet18", 32, False, False),
        ("timm:resnet18", 32, False, False),
    ],
)
def test_the_cifar_form_is_decided_by_name_and_size(name: str, side: int, cifar: bool, form: bool) -> None:
    assert _spec(name, side, cifar=cifar).cifar is form


def test_a_cifar_form_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelError, match="'resnet50' has no CIFAR form; these have: resnet20"):
        _spec("resnet50", 32, cifar=True)


def test_images_too_small_for_five_poolings_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"needs images of 32 pixels or more, not 28x28; set input\.image_size"
    ):
        _spec("vgg16_bn", 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": "10"}, "num_classes is '10'; expected a whole number from 1"),
        ({"num_classes": True}, "num_classes is True"),
        ({"height": 0}, "height is 0"),
        ({"width": 10**9}, "width is 1000000000; expected a whole number from 1 to 16384"),
        ({"in_channels": 3.0}, "in_channels is 3.0"),
        ({"name": ""}, "the name must be a text"),
        ({"name": None}, "the name must be a text"),
        ({"cifar": 1}, "cifar is 1; expected true or false"),
        ({"weights": "x.pt"}, r"unknown keys \['weights'\]"),
    ],
)
def test_from_dict_refuses_what_is_not_a_spec(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_dict({**GOOD, **change})


@pytest.mark.parametrize("document", [None, [], "resnet20", 3, {}])
def test_from_dict_refuses_other_documents(document: Any) -> None:
    with pytest.raises(ModelError, match=r"^model: (expected a JSON object|missing keys)"):
        ModelSpec.from_dict(document)
