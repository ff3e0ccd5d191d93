"""A damaged image is named, counted and passed over, up to a limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import jstc.data
from jstc.data import Dataset, Epoch, Part
from jstc.data.images import CorruptImages, UnreadableImageError, corrupt_file, open_bytes, open_file
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings, Recipe
from jstc.runs.workspace import Workspace

CPU = torch.device("cpu")
Make = Callable[..., Path]
MakePng = Callable[..., bytes]


def _load(root: Path, *, workers: int = 0, max_corrupt: int = 100, name: str = "imagefolder") -> Dataset:
    settings = InputSettings(image_size=16, workers=workers, max_corrupt=max_corrupt)
    return jstc.data.load(name, root=root, settings=settings, seed=0, device=CPU)


@pytest.fixture
def tree(make_tree: Make) -> Path:
    """Twelve training and twelve test images; 2.png of class1 is damaged in both."""
    root = make_tree()
    for split in ("train", "val"):
        (root / split / "class1" / "2.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_the_next_image_of_the_batch_takes_its_place(tree: Path, workers: int) -> None:
    data = _load(tree, workers=workers)
    whole = list(data.train_full.shuffled(12, Epoch(0, 0)))
    tail = list(_load(tree).train_full.shuffled(6, Epoch(0, 0, start=1)))
    assert [len(labels) for _, labels in whole] == [12]
    assert torch.equal(tail[0][0][:5], whole[0][0][6:11])  # the last one's next differs with the batch
    [(where, reason)] = data.corrupt.found.items()
    assert where.endswith("train/class1/2.png")
    assert reason == "not an image"


def test_the_replacement_has_the_label_of_its_own(tree: Path, make_png: MakePng) -> None:
    for number in range(3):
        (tree / "train" / "class1" / f"{number}.png").write_bytes(make_png(250))
    (tree / "train" / "class1" / "3.png").write_bytes(b"")
    for epoch in range(4):
        for images, labels in _load(tree).train_full.shuffled(4, Epoch(0, epoch, augment=False)):
            red = (images[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
            assert torch.equal(red.round() == 250, labels == 1)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_processes_are_still_those_of_one(tree: Path, world: int) -> None:
    train = _load(tree).train_full
    [(whole, _)] = train.shuffled(12, Epoch(1, 0))
    shares = [next(train.shuffled(12, Epoch(1, 0), part=Part(rank, world)))[0] for rank in range(world)]
    assert torch.equal(torch.cat(shares), whole)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_in_evaluation_it_is_left_out(tree: Path, batch_size: int) -> None:
    data = _load(tree)
    labels = torch.cat([labels for _, labels in data.test.ordered(batch_size)])
    assert labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    assert [Path(where).parts[-3] for where in data.corrupt.found] == ["val"]


def test_beyond_the_limit_the_run_ends_and_names_them(tree: Path) -> None:
    data = _load(tree, max_corrupt=1)
    list(data.test.ordered(4))
    list(data.test.ordered(4))  # the same one again
    message = r"2 images cannot be read, input\.max_corrupt allows 1: .*val/class1/2\.png: not an image; .*tr"
    with pytest.raises(DataError, match=message):
        list(data.train_full.shuffled(4, Epoch(0, 0)))


def test_a_batch_without_any_readable_image_ends_the_run(make_tree: Make) -> None:
    root = make_tree(classes=2, images=1)
    data = _load(root)
    for path in (root / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"^none of the 2 images of a batch can be read, such as .*\.png: "):
        list(data.train_full.shuffled(2, Epoch(0, 0)))


def test_small_parquet_images_are_left_out_when_they_are_decoded(
    make_parquet: Make, make_png: MakePng
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [make_png(number, 32) for number in range(12)]
    images[5] = b""
    root = make_parquet()
    pq.write_table(pa.table({"image": images, "label": [n % 3 for n in range(12)]}), root / "test.parquet")
    data = _load(root, name="parquet")
    assert data.test.num_images == 11
    assert (
        torch.cat([labels for _, labels in data.test.ordered(4)]).tolist() == [0, 1, 2, 0, 1] + [0, 1, 2] * 2
    )
    assert [where.split()[:2] for where in data.corrupt.found] == [["row", "5"]]
    with pytest.raises(DataError, match=r"input\.max_corrupt allows 0"):
        _load(root, name="parquet", max_corrupt=0)


def test_they_are_written_down_once_and_counted_after_a_resumption(tmp_path: Path) -> None:
    path = tmp_path / "run" / "corrupt.jsonl"
    first = CorruptImages(2)
    first.add([("a", "cut off")])
    first.keep_in(path)
    first.add([("a", "cut off"), ("b", "empty")])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"image": "a", "reason": "cut off"}, {"image": "b", "reason": "empty"}]
    with path.open("a") as file:
        file.write('{"image": "hal')
    second = CorruptImages(2)
    second.keep_in(path)
    with pytest.raises(DataError, match=r"3 images .* all are in .*corrupt\.jsonl"):
        second.add([("b", "empty"), ("c", "gone")])


def test_every_kind_of_damage_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_png: MakePng
) -> None:
    good = make_png(1, 64)
    jpeg = tmp_path / "x.jpg"
    Image.new("RGB", (2000, 10)).save(jpeg)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for data, reason in (
        (b"", "not an image"),
        (good[:200], ""),
        (good, "exceeds limit"),
        (None, "no bytes"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"the image in row 1: [^\n]*{reason}"):
            open_bytes(data, "row 1")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImageError, match=r"x\.jpg: 2000x10 pixels, more than 100 to 1"):
        open_file(jpeg)
    with pytest.raises(UnreadableImageError, match="gone"):
        open_file(tmp_path / "gone.jpg")


def test_a_run_keeps_them_in_its_directory(tree: Path, tmp_path: Path) -> None:
    keys = {"image_size": 16, "workers": 0}
    recipe = Recipe(model="resnet18", dataset="imagefolder", data=tree, flops=0.5, device="cpu", input=keys)
    workspace = Workspace(recipe)
    workspace.belongs_to(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    list(workspace.dataset.test.ordered(12))
    assert '2.png", "reason": "not an image"}' in (tmp_path / "run" / corrupt_file()).read_text()
    assert corrupt_file(3) == "corrupt-3.jsonl"


def test_a_list_of_them_from_elsewhere_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.jsonl"
    path.write_text("[" * 100_000 + '\n7\n{"image": "a", "reason": "empty"}\n')
    images = CorruptImages(1)
    images.keep_in(path)
    assert images.found == {"a": "empty"}
