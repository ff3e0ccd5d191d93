"""Whatever holds the images, a file becomes the same pixels, or is named with the same reason."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import jstc.data
from jstc.recipe.schema import InputSettings

SIDE = 100
GROUND = (0, 128, 255)


def _files() -> dict[str, bytes]:
    """Names of files, and what is in them: all kinds of pixels, and those that have no known range."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8), "RGBA")
    deep = Image.fromarray(random.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16))
    turned = Image.Exif()
    turned[274] = 8
    made = {
        "a.png": (colours, {}),
        "b.png": (deep, {}),
        "c.tif": (deep, {}),
        "d.gif": (colours.convert("RGB").quantize(20), {"transparency": 3}),
        "e.jpg": (colours.convert("CMYK"), {}),
        "f.jpg": (colours.convert("RGB"), {"exif": turned}),
        "g.png": (colours.convert("LA"), {}),
        "h.tif": (Image.fromarray(np.asarray(deep) / np.float32(65535)), {}),
        "i.webp": (colours, {"lossless": True}),
        "j.tif": (Image.fromarray(np.asarray(deep).astype(np.int32)), {}),
    }
    found = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(name[2:], name[2:])
        image.save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found


def _folder(root: Path, files: dict[str, bytes]) -> tuple[str, Path | None]:
    for split in ("train", "val"):
        for number, (name, data) in enumerate(files.items()):
            path = root / split / f"{number // 5}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return "imagefolder", root


def _shards(root: Path, files: dict[str, bytes]) -> tuple[str, Path | None]:
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for number, (name, data) in enumerate(files.items()):
                for member, content in ((name, data), (f"{name[0]}.cls", b"%d" % (number // 5))):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return "webdataset", root


def _parquet(root: Path, files: dict[str, bytes]) -> tuple[str, Path | None]:
    table = pa.table({"image": list(files.values()), "label": [n // 5 for n in range(len(files))]})
    for split in ("train", "test"):
        pq.write_table(table, root / f"{split}.parquet")
    return "parquet", root


def _hub(root: Path, files: dict[str, bytes]) -> tuple[str, Path | None]:
    library = pytest.importorskip("datasets", reason="the extra hf is not installed")
    rows = {
        "image": [{"bytes": data, "path": None} for data in files.values()],
        "label": [n // 5 for n in range(len(files))],
    }
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["0", "1"])})
    split = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict(train=split, test=split).save_to_disk(str(root / "saved"))
    return f"hf:{root / 'saved'}", None


@pytest.mark.parametrize("make", [_folder, _shards, _parquet, _hub])
@pytest.mark.parametrize("background", [GROUND, "none"])
def test_the_same_files_give_the_same_pixels(
    tmp_path: Path, make: Callable[..., tuple[str, Path | None]], background: object
) -> None:
    files = _files()
    name, root = make(tmp_path, files)
    settings = InputSettings.model_validate(
        {
            "workers": 0,
            "image_size": SIDE,
            "background": background,
            "cache": tmp_path / "kept",
            "max_corrupt": 9,
        }
    )
    data = jstc.data.load(name, root=root, settings=settings, seed=0, device=torch.device("cpu"))
    seen = [image for images, _ in data.test.originals(4) for image in images.numpy()]
    assert len(seen) == 8
    assert sorted(reason.split(", of")[0] for reason in data.corrupt.found.values()) == [
        "its pixels are floating-point numbers",
        "its pixels are whole numbers of more than 16 bits",
    ]
    for pixels, (file, stored) in zip(
        seen, ((f, d) for f, d in files.items() if f[0] not in "hj"), strict=True
    ):
        assert np.array_equal(pixels.transpose(1, 2, 0), _expected(stored, background)), file
    notes = " ".join(data.info.notes)
    assert "8 of 16 images looked at are transparent" in notes
    assert "2 of 16 images looked at have a rotation in their EXIF data" in notes


def _expected(stored: bytes, background: object) -> object:
    with Image.open(io.BytesIO(stored)) as image:
        if image.mode.startswith("I;16"):
            return np.stack([np.asarray(image) >> 8] * 3, -1)
        if background == "none" or not image.has_transparency_data:
            return np.asarray(image.convert("RGB"))
        ground = Image.new("RGBA", image.size, (*GROUND, 255))
        return np.asarray(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))
