"""Products of matrices give the bytes that Pillow gives, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jstc.core.preprocessing import INTERPOLATIONS, Interpolation, Preprocessing
from jstc.data.pixels import as_colours, prepared_pixels
from jstc.data.transforms import resampled

GREY = (0.0,), (1.0,)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_they_are_pillows_for_any_size(interpolation: Interpolation) -> None:
    generator = np.random.default_rng(0)
    for number in range(60):
        height, width, to_height, to_width = (int(n) for n in generator.integers(1, 90, 4))
        side = max(to_height, to_width) + number // 2 if number % 2 else None
        to = Preprocessing(to_height, to_width, *GREY, side, interpolation)
        pixels = generator.integers(0, 256, (height, width), dtype=np.uint8)
        expected = prepared_pixels(Image.fromarray(pixels), to_height, to_width, side, interpolation)
        found = resampled(torch.from_numpy(pixels)[None, None], to)
        assert np.array_equal(found[0, 0].numpy(), expected), (height, width, to)


def test_the_order_of_the_passes_does_not_hang_on_pillows_version() -> None:
    """Pillow 13 resizes such an image down first, earlier ones across first; there, rounding differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 100), dtype=np.uint8)
    across = Image.fromarray(pixels).resize((37, 300), Image.Resampling.BILINEAR)
    expected = across.resize((37, 111), Image.Resampling.BILINEAR)
    found = prepared_pixels(Image.fromarray(pixels), 37, 37, 37, "bilinear")
    assert np.array_equal(found, np.asarray(expected)[37:74])


def test_images_of_the_networks_size_are_neither_enlarged_nor_cropped() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(prepared_pixels(Image.fromarray(pixels), 32, 32, 37, "bilinear"), pixels)


def test_sixteen_bits_are_scaled_and_thirty_two_refused() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    seen = np.asarray(as_colours(Image.fromarray(ramp.astype(np.uint16)), "RGB", None))
    assert seen.mean() == pytest.approx(127.5, abs=0.5)
    for kind, name in (
        (np.float32, "floating-point numbers"),
        (np.int32, "whole numbers of more than 16 bits"),
    ):
        with pytest.raises(ValueError, match=f"its pixels are {name}, of which no range is known"):
            as_colours(Image.fromarray(ramp.astype(kind)), "RGB", None)
