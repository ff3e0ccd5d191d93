"""Small datasets in the forms that users have them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def picture(number: int, side: int = 40, mode: str = "RGB") -> Image.Image:
    """A picture whose mean tells its number: channel 0 is constant, the others are noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3)).astype(np.uint8)
    pixels[..., 0] = number
    return Image.fromarray(pixels).convert(mode)


def png(number: int, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    picture(number, side).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def make_png() -> Callable[..., bytes]:
    """A picture by number, encoded."""
    return png


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write train/ and val/ with `classes` folders of `images` pictures each."""

    def make(classes: int = 3, images: int = 4, *, val: str = "val", mode: str = "RGB") -> Path:
        for split in ("train", val):
            for number in range(classes):
                folder = tmp_path / split / f"class{number}"
                folder.mkdir(parents=True)
                for image in range(images):
                    picture(10 * number + image, mode=mode).save(folder / f"{image}.png")
        return tmp_path

    return make


@pytest.fixture
def make_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write the table of `count` pictures to each of `names`, labels by `label(number)`."""

    def make(
        names: tuple[str, ...] = ("train", "test"),
        *,
        count: int = 12,
        side: int = 32,
        label: Callable[[int], object] = lambda number: number % 3,
        struct: bool = True,
    ) -> Path:
        images: list[object] = [png(number, side) for number in range(count)]
        if struct:
            images = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)]
        table = pa.table({"image": images, "label": [label(number) for number in range(count)]})
        for name in names:
            path = tmp_path / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(table, path)
        return tmp_path

    return make
