"""Image files from anywhere: what they claim fills no memory, and no other program is run for them."""

from __future__ import annotations

import subprocess

import pytest
import torch
from PIL import Image

from jstc.data.decoding import in_workers
from jstc.data.images import UnreadableImageError, open_bytes, open_file
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
