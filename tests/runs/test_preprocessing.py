"""Where the preprocessing of a run comes from: recipe keys, then the weights, then the data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jstc import data
from jstc.core.preprocessing import Preprocessing
from jstc.data import DataInfo
from jstc.data.base import photographs
from jstc.data.transforms import for_training, seeded
from jstc.errors import DataError, InputError
from jstc.models import Published, published
from jstc.recipe.schema import InputSettings
from jstc.runs.preprocessing import settled

HALF, WEIGHTS = (0.5,) * 3, Path("weights.pth")


def info(size_from: str, side: int = 224, resize_side: int | None = 256) -> DataInfo:
    return DataInfo(
        "photos", ("a", "b"), 3, side, side, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize_side,
        size_from=size_from,  # type: ignore[arg-type]
    )  # fmt: skip


def known(side: int = 300, *, of_weights: bool, least: int = 1) -> Published:
    to = Preprocessing(side, side, HALF, HALF, side + 20, "bicubic")
    return Published(to, "the authors", least, of_weights)


def prepared(given: DataInfo, found: Published | None, **keys: Any) -> Preprocessing:
    weights = WEIGHTS if found is not None and found.of_weights else None
    return settled(given, InputSettings.model_validate(keys), weights, lambda: found).info.preprocessing


def test_images_of_several_sizes_get_the_networks() -> None:
    found = prepared(info("nothing"), known(of_weights=False))
    assert (found.height, found.width, found.resize_side) == (300, 300, 343)
    assert (found.mean, found.interpolation) == ((0.1, 0.2, 0.3), "bilinear")
    assert prepared(info("nothing"), None).height == 224


def test_small_images_keep_their_size_unless_the_network_takes_none_so_small() -> None:
    assert prepared(info("images", 32, 37), known(of_weights=False)).height == 32
    assert prepared(info("images", 32, 37), known(of_weights=False, least=75)).height == 300


def test_weights_that_are_known_decide_all_but_the_size_of_small_images() -> None:
    weights = known(of_weights=True)
    assert prepared(info("nothing"), weights) == weights.preprocessing
    small = prepared(info("images", 30, 34), weights)
    assert (small.height, small.resize_side, small.mean, small.interpolation) == (30, 32, HALF, "bicubic")


def test_the_recipes_keys_come_first() -> None:
    found = prepared(
        info("recipe", 64, 73), known(of_weights=True),
        image_size=64, resize_side=80, mean=[0.25], std=[0.1, 0.2, 0.3], interpolation="bilinear",
    )  # fmt: skip
    assert found == Preprocessing(64, 64, (0.25,) * 3, (0.1, 0.2, 0.3), 80, "bilinear")
    assert prepared(info("nothing"), None, resize_side="stretch").resize_side is None


def test_libraries_are_asked_only_where_it_matters() -> None:
    def never() -> Published:
        raise AssertionError

    for size_from in ("recipe", "data set"):
        assert settled(info(size_from, 32, None), InputSettings(), None, never).info.height == 32


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"mean": [0.5, 0.5]}, "input.mean has 2 values, and images of 'photos' have 3 channels"),
        ({"resize_side": 100}, "give a side of 224 or more"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        prepared(info("data set"), None, **keys)


def test_a_resizing_that_has_no_form_here_matters_only_for_weights_and_gives_way_to_the_recipes() -> None:
    to = Preprocessing(300, 300, HALF, HALF, None, "bicubic")
    network, weights = (Published(to, "the authors", 1, own, "crop_mode squash") for own in (False, True))
    assert prepared(info("nothing"), network).height == 300
    with pytest.raises(InputError, match=r"the authors .* crop_mode squash.*give input.resize_side"):
        prepared(info("nothing"), weights)
    found = prepared(info("nothing"), weights, resize_side=320)
    assert (found.resize_side, found.mean, found.interpolation) == (320, HALF, "bicubic")


def test_what_is_done_is_said() -> None:
    text = settled(info("images", 32, 37), InputSettings(mean=(0.5,)), None, lambda: None).sentence
    assert text == (
        "the network gets 32x32 pixels (the images' own size; input.image_size sets another); images of "
        "other sizes are resized to 37 on the shorter side and cropped, bilinear; "
        "mean 0.5/0.5/0.5 and deviation 0.4/0.5/0.6 are the recipe's"
    )


def test_what_of_the_resizing_is_not_the_recipes_is_said() -> None:
    def told(**keys: Any) -> str:
        keys_given = InputSettings.model_validate(keys)
        return settled(info("nothing"), keys_given, WEIGHTS, lambda: known(of_weights=True)).sentence

    assert (
        "320 on the shorter side and cropped, bicubic as the authors wants it (input.resize_side and "
        "input.interpolation would say otherwise); "
    ) in told()
    assert "cropped, bicubic as the authors wants it (input.interpolation would" in told(resize_side=330)
    assert "cropped, bilinear; " in told(resize_side=330, interpolation="bilinear")


# What is published.


def test_torchvisions_weights_are_known_by_the_name_of_their_file() -> None:
    found = published("efficientnet_b4", Path("efficientnet_b4_rwightman-23ab8bcd.pth"))
    assert found is not None
    assert found.of_weights
    assert found.preprocessing == Preprocessing(
        380, 380, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 384, "bicubic"
    )
    first, other = (published("resnet50", Path(n)) for n in ("resnet50-0676ba61.pth", "mine.pth"))
    assert first is not None
    assert other is not None
    assert (first.preprocessing.resize_side, first.of_weights) == (256, True)
    assert not other.of_weights
    vit = published("vit_b_16")
    assert vit is not None
    assert vit.least == 224
    assert published("resnet20") is published("mine.py:net") is None


def test_timms_too() -> None:
    pytest.importorskip("timm")
    found = published("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", WEIGHTS)
    assert found is not None
    assert (found.least, found.of_weights) == (224, True)
    assert found.preprocessing == Preprocessing(224, 224, HALF, HALF, 248, "bicubic")
    assert published("timm:nonesuch") is None


CROPPED = {
    "do_resize": True, "size": {"shortest_edge": 256}, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "resample": 3, "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (CROPPED, (224, 224, 256, "bicubic")),
        (CROPPED | {"size": 256, "crop_size": 224, "resample": 2}, (224, 224, 256, "bilinear")),
        (CROPPED | {"do_center_crop": False, "size": {"height": 32, "width": 48}}, (32, 48, None, "bicubic")),
        (CROPPED | {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224, 256, "bicubic")),
    ],
)
def test_a_configuration_of_hugging_face_beside_the_weights(
    tmp_path: Path, document: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    found = published("resnet20", tmp_path / "model.safetensors")
    assert found is not None
    to = found.preprocessing
    assert (to.height, to.width, to.resize_side, to.interpolation) == expected
    assert (to.mean, to.std, found.of_weights, found.unlike) == (HALF, HALF, True, None)


def test_a_configuration_of_timm_beside_the_weights(tmp_path: Path) -> None:
    config = {"input_size": [3, 96, 96], "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear",
              "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": config}))
    found = published("mine.py:net", tmp_path / "model.safetensors")
    assert found is not None
    assert found.preprocessing == Preprocessing(96, 96, HALF, HALF, None, "bilinear")


@pytest.mark.parametrize(("mode", "part"), [("squash", 0.9), ("border", 1.0), ("center", 1.15)])
def test_what_timm_does_and_has_no_form_here_is_told(tmp_path: Path, mode: str, part: float) -> None:
    config = {"input_size": [3, 96, 96], "crop_pct": part, "crop_mode": mode, "interpolation": "bicubic",
              "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    found = published("mine.py:net", tmp_path / "model.safetensors")
    assert found is not None
    assert found.unlike == f"crop_mode {mode} with crop_pct {part:g}"
    assert found.preprocessing == Preprocessing(96, 96, HALF, HALF, None, "bicubic")


@pytest.mark.parametrize(
    "text",
    [
        *("[", '{"size": {"x": 1}}', json.dumps(CROPPED | {"resample": 0})),
        *(json.dumps(CROPPED | odd) for odd in ({"image_std": [0, 1, 1]}, {"image_mean": "abc"})),
        json.dumps({"size": {"height": -3, "width": 3}, "image_mean": [0.5], "image_std": [0.5]}),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match=r"preprocessor_config.json cannot be used for the images of"):
        published("resnet20", tmp_path / "model.safetensors")


def test_a_size_that_is_not_square_is_stretched_to_unless_told_otherwise() -> None:
    """A square's shorter side would leave out most of an image that is much wider than tall."""
    for found in (None, known(of_weights=False), known(of_weights=True)):
        for side in (None, 64):
            keys = {"image_size": [16, 48], "resize_side": side}
            given = photos([(60, 100), (40, 90)], InputSettings.model_validate(keys))
            to = prepared(given, found, **keys)
            assert (to.height, to.width, to.resize_side) == (16, 48, side)


def test_crops_for_training_have_about_the_form_that_the_network_gets() -> None:
    settings = InputSettings.model_validate({"image_size": [16, 48]})
    transform = for_training(photos([(60, 100)], settings), settings)
    rows = np.tile(np.arange(240, dtype=np.uint8)[:, None, None], (1, 720, 3))
    columns = np.tile(np.linspace(0, 239, 720).astype(np.uint8)[:, None], (240, 1, 3))
    with seeded(0):
        seen = [
            [spread_of(transform(Image.fromarray(image))) for image in (rows, columns)] for _ in range(40)
        ]
    tall, wide = (sorted(spreads)[-5] for spreads in zip(*seen, strict=True))
    # Of 240 x 720 pixels a square crop has at most a third of the width; these have nearly all of both.
    assert min(tall, wide) > 180


def test_a_set_of_square_images_stays_square() -> None:
    with pytest.raises(DataError, match="images of 32x32 stay square"):
        data.check("digits", root=None, settings=InputSettings.model_validate({"image_size": [16, 48]}))


def photos(sizes: list[tuple[int, int]], settings: InputSettings) -> DataInfo:
    return photographs("photos", ["a", "b"], sizes, settings)


def spread_of(image: torch.Tensor) -> float:
    return float(image.max()) - float(image.min())
