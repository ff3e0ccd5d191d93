"""Image files from anywhere: what they claim fills no memory, and no other program is run for them."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from jstc.data.decoding import in_workers
from jstc.data.images import Encoded, UnreadableImageError, endings, open_bytes, open_file
from jstc.errors import DataError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_picture_of_more_pixels_than_any_camera_gives_is_refused(tmp_path):
    Image.new("1", (9_500, 9_500)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    with pytest.raises(UnreadableImageError, match=r"bomb\.png: .*decompression bomb"):
        open_file(tmp_path / "bomb.png")


def test_no_program_is_run_for_an_image(tmp_path, monkeypatch):
    def started(*arguments, **options):
        pytest.fail(f"{arguments} was started")

    for name in ("Popen", "run", "check_call"):
        monkeypatch.setattr(subprocess, name, started)
    (tmp_path / "x.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(UnreadableImageError, match="not an image"):
        open_file(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImageError, match="not an image"):
        open_bytes(POSTSCRIPT, "row 1")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.ppm", "x.tiff"])
def test_the_usual_forms_are_read(tmp_path, name):
    Image.new("RGB", (5, 4), (200, 10, 10)).save(tmp_path / name)
    assert open_file(tmp_path / name).size == (5, 4)


# Images of more than 8 bits, and transparent ones.

RAMP = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_colours(values):
    """A PNG file of RGB with 16 bits a channel, which Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(values, bits, *, white_is_zero=False):
    """A grey TIFF file, of 12 bits a pixel as some cameras write it, or of 16."""
    data = values.astype("<u2").tobytes()
    if bits == 12:
        flat = values.reshape(-1).astype(int)
        pairs = [
            (a >> 4, (a & 15) << 4 | b >> 8, b & 255) for a, b in zip(flat[::2], flat[1::2], strict=True)
        ]
        data = bytes(byte for three in pairs for byte in three)
    height, width = values.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: int(not white_is_zero),
        277: 1,
        278: height,
        279: len(data),
    }
    entries = sorted((tags | {273: 8 + 2 + 12 * 9 + 4}).items())
    listed = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, 9) + listed + bytes(4) + data


SIXTEEN = {
    "png": lambda: saved(Image.fromarray(RAMP), "png"),
    "tiff": lambda: saved(Image.fromarray(RAMP), "tiff"),
    "big-endian tiff": lambda: saved(
        Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()), "tiff"
    ),
    "tiff of 12 bits": lambda: tiff(RAMP >> 4, 12),
    "tiff, white is zero": lambda: tiff(65535 - RAMP, 16, white_is_zero=True),
    "pgm": lambda: b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
    "png of colours": lambda: png_of_colours(np.stack([RAMP] * 3, -1)),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_sixteen_bits_become_their_upper_eight(kind):
    seen = np.asarray(open_bytes(SIXTEEN[kind](), kind))
    assert np.array_equal(seen, np.stack([RAMP >> 8] * 3, -1))
    assert Encoded(SIXTEEN[kind](), kind).look()[:3] == (64, 64, False)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(RAMP / np.float32(65535), "floating-point numbers"), (RAMP.astype(np.int32), "more than 16 bits")],
)
def test_what_has_no_known_range_is_named(values, reason):
    data = saved(Image.fromarray(values), "tiff")
    for what in (Encoded.look, lambda image: image.rgb(None)):
        with pytest.raises(
            UnreadableImageError, match=rf"row 1: its pixels are .*{reason}.*; save it with 8 or 16"
        ):
            what(Encoded(data, "row 1"))


def _clear(mode):
    """Red and opaque on the left; on the right as clear as its mode allows, over blue."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (4, 0, 8, 8))
    if mode == "P":
        return saved(image.convert("RGB").quantize(2), "png", transparency=0), saved(
            image.convert("RGB").quantize(2), "png", transparency=1
        )
    if mode == "RGB":
        return (saved(image.convert("RGB"), "png", transparency=(0, 0, 255)),)
    return (saved(image.convert(mode), "png"),)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_clear_is_laid_on_a_colour_and_the_rest_stays(mode):
    seen = [np.asarray(open_bytes(data, "", (0, 99, 0)))[0, [0, 7]].tolist() for data in _clear(mode)]
    opaque = {"LA": [76] * 3}.get(mode, [255, 0, 0])
    assert [opaque, [0, 99, 0]] in seen
    assert all(Encoded(data, "").look().transparent for data in _clear(mode))
    dropped = [np.asarray(open_bytes(data, "", None)) for data in _clear(mode)]
    plain = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in _clear(mode)]
    assert np.array_equal(dropped, plain)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_hides_nothing_changes_nothing(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    data = saved(image, "png")
    assert np.array_equal(np.asarray(open_bytes(data, "")), np.asarray(image.convert("RGB")))
    assert not Encoded(data, "").look().transparent


def test_avif_is_read_where_pillow_can(tmp_path):
    if ".avif" not in endings():
        pytest.skip("this Pillow was built without AVIF")
    Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / "x.avif")
    assert abs(np.asarray(open_file(tmp_path / "x.avif"))[8, 8] - [200.0, 10, 10]).max() < 9


class Failing(torch.utils.data.Dataset):
    """Items that cannot be given: the error has several lines, and what looks like a traceback in it."""

    def __getitems__(self, request):
        raise DataError("shard x.tar: DataError: no such member\nof 3", "make it again; or leave it out")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_comes_from_a_worker_as_it_was_raised(workers):
    with pytest.raises(DataError) as caught:
        list(in_workers(Failing(), [[0]], workers=workers))
    assert caught.value.problem == "shard x.tar: DataError: no such member\nof 3"
    assert caught.value.advice == "make it again; or leave it out"
    assert str(caught.value) == f"{caught.value.problem}; {caught.value.advice}"
