from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import jstc.data
from jstc.data import Dataset, Epoch, Part
from jstc.data.images import Images
from jstc.data.sources import folder
from jstc.data.sources.folder import image_files
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

CPU = torch.device("cpu")
Make = Callable[..., Path]


def _load(root: Path, *, workers: int = 0, name: str = "imagefolder") -> Dataset:
    settings = InputSettings(image_size=32, workers=workers)
    return jstc.data.load(name, root=root, settings=settings, seed=0, device=CPU)


def _check(root: Path) -> None:
    jstc.data.check("imagefolder", root=root)


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_a_tree_is_found_whatever_its_test_folder_is_called(make_tree: Make, val: str) -> None:
    data = _load(make_tree(val=val))
    sizes = [s.num_images for s in (data.train, data.search_val, data.train_full, data.test)]
    assert sizes == [10, 2, 12, 12]
    assert data.info.labels == ("class0", "class1", "class2")


def test_photographs_are_cropped_for_evaluation(make_tree: Make) -> None:
    root = make_tree()
    with Image.open(root / "val" / "class2" / "3.png") as image:
        image.resize((41, 40)).save(root / "val" / "class2" / "3.png")
    several = jstc.data.check("imagefolder", root=root)
    assert (several.height, several.width, several.resize_side) == (224, 224, 256)
    assert several.size_from == "nothing"
    small = InputSettings(image_size=64)
    assert jstc.data.check("imagefolder", root=root, settings=small).resize_side == 73


def test_small_images_of_one_size_keep_it(make_tree: Make) -> None:
    info = jstc.data.check("imagefolder", root=make_tree(images=2))
    assert (info.height, info.width, info.size_from) == (40, 40, "images")


def test_originals_are_the_images_in_order_as_their_files_have_them(tmp_path: Path, make_tree: Make) -> None:
    paths = sorted((make_tree(images=5) / "val").rglob("*.png"))
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            image.resize((20 + number // 2, 31)).save(path)
    paths[4].write_bytes(b"none")
    for workers in (0, 2):
        data = _load(tmp_path, workers=workers)
        batches = list(data.test.originals(4))
        expected = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths if path != paths[4]]
        found = [image for images, _ in batches for image in images]
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        assert [len(labels) for _, labels in batches] == [2, 2, 1, 2, 2, 2, 2, 1]
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels, torch.cat([labels for _, labels in data.test.ordered(4)]))
        assert len(data.corrupt.found) == 1
    [(images, _)] = data.test.originals(4, limit=1)
    assert np.array_equal(images[0], expected[0])
    parts = [list(data.test.originals(4, part=Part(rank, 2))) for rank in range(2)]
    assert sum(len(labels) for part in parts for _, labels in part) == 14


def test_labels_belong_to_their_images(make_tree: Make) -> None:
    data = _load(make_tree())
    images, labels = next(data.test.ordered(12))
    assert images.shape == (12, 3, 32, 32)
    red = (images[:, 0].mean((1, 2)) * data.info.std[0] + data.info.mean[0]) * 255
    assert torch.equal(red.round().long() // 10, labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_yields_the_same_batches(make_tree: Make, workers: int) -> None:
    root = make_tree()
    whole = list(_load(root, workers=workers).train.shuffled(3, Epoch(1, 2)))
    tail = list(_load(root).train.shuffled(3, Epoch(1, 2, start=1)))
    assert len(whole) == 3
    for (images, labels), (same_images, same_labels) in zip(whole[1:], tail, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_augmentation_differs_between_epochs_and_can_be_left_out(make_tree: Make) -> None:
    train = _load(make_tree(classes=1)).train_full
    epochs = [next(train.shuffled(4, Epoch(0, e, augment=a))) for e in (0, 1) for a in (True, False)]
    sorted_images = [images[images[:, 0].mean((1, 2)).argsort()] for images, _ in epochs]
    assert not torch.equal(sorted_images[0], sorted_images[2])
    assert torch.equal(sorted_images[1], sorted_images[3])


def test_global_random_state_is_neither_used_nor_changed(make_tree: Make) -> None:
    train = _load(make_tree()).train
    before = torch.get_rng_state()
    first = next(train.shuffled(4, Epoch(0, 0)))[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(next(train.shuffled(4, Epoch(0, 0)))[0], first)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_images_of_any_mode_are_read_as_rgb(tmp_path: Path, make_tree: Make, mode: str) -> None:
    root = make_tree(images=2)
    for path in (root / "val").rglob("*.png"):
        with Image.open(path) as image:
            image.convert(mode).save(path.with_suffix(".tiff"))
        path.unlink()
    assert next(_load(root).test.ordered(6))[0].shape == (6, 3, 32, 32)


def test_one_image_per_class_is_enough(make_tree: Make) -> None:
    data = _load(make_tree(classes=10, images=1), name="imagenet")
    assert (data.train.num_images, data.search_val.num_images) == (8, 2)
    assert data.train.steps(64) == len(list(data.train.shuffled(64, Epoch(0, 0)))) == 1


def test_limit_spreads_over_the_classes(make_tree: Make) -> None:
    data = _load(make_tree())
    labels = torch.cat([labels for _, labels in data.test.ordered(2, limit=3)])
    assert labels.tolist() == [0, 1, 2]


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "train").rename(root / "training"), r"has no train/, but training/, val/"),
        (lambda root: (root / "val").rename(root / "dev"), r"has no val/, validation/ or test/"),
        (lambda root: _remove(root / "val"), r"val has no class folders; expected a folder with train/"),
        (
            lambda root: _remove(root / "train" / "class1"),
            r"1 class folder in .*train without images: class1",
        ),
        (
            lambda root: (root / "val" / "class2").rename(root / "val" / "x"),
            r"val lacks 1 .*class2; .*train lacks 1 .*: x",
        ),
    ],
    ids=["no train", "no val", "no classes", "empty class", "classes differ"],
)
def test_check_says_what_is_wrong(make_tree: Make, damage: Callable[[Path], object], message: str) -> None:
    root = make_tree(images=1)
    _check(root)
    damage(root)
    with pytest.raises(DataError, match=message):
        _check(root)


def test_check_explains_images_without_class_folders(tmp_path: Path, make_tree: Make) -> None:
    root = make_tree(classes=1, images=1)
    path = root / "val" / "class0" / "0.png"
    path.rename(root / "val" / "0.png")
    path.parent.rmdir()
    with pytest.raises(DataError, match="one folder per class"):
        _check(root)


def _damage(root: Path, *, of: int) -> None:
    for path in sorted((root / "val").rglob("*.png"))[:of]:
        path.write_bytes(b"x")


def test_check_looks_at_images_and_compares_with_the_limit(make_tree: Make) -> None:
    root = make_tree(classes=4, images=1)
    _damage(root, of=2)
    jstc.data.check("imagefolder", root=root, settings=InputSettings(max_corrupt=2))
    message = r"2 of 4 images looked at, out of about 4, are damaged, .*allows 1: cannot read image .*0\.png"
    with pytest.raises(DataError, match=message):
        jstc.data.check("imagefolder", root=root, settings=InputSettings(max_corrupt=1))


def test_check_thinks_of_the_images_that_it_did_not_look_at(make_tree: Make) -> None:
    root = make_tree(classes=3, images=10)
    _damage(root, of=20)
    with pytest.raises(DataError, match=r"2 of 3 images looked at, out of about 30, are damaged"):
        jstc.data.check("imagefolder", root=root, settings=InputSettings(max_corrupt=19))
    jstc.data.check("imagefolder", root=root, settings=InputSettings(max_corrupt=20))


def test_a_single_damaged_image_in_the_sample_may_be_chance(make_tree: Make) -> None:
    root = make_tree(classes=3, images=4)
    _damage(root, of=4)
    jstc.data.check("imagefolder", root=root, settings=InputSettings(max_corrupt=1))


def test_one_training_image_cannot_be_split(make_tree: Make) -> None:
    with pytest.raises(DataError, match="the training split has 1 images; it needs 2"):
        _load(make_tree(classes=1, images=1))


def test_a_folder_that_cannot_be_looked_into_is_named(
    make_tree: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(images=1)

    def denied(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(DataError, match=r"cannot look into .*Permission denied: '.*train'"):
        _check(root)


def test_workers_are_given_arrays_not_lists_as_long_as_the_data(make_tree: Make) -> None:
    data = _load(make_tree(images=30))
    todo: list[object] = [data.train_full.images]  # type: ignore[attr-defined]
    seen: set[int] = set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType):
            continue
        seen.add(id(thing))
        assert not (isinstance(thing, list | tuple | dict) and len(thing) >= 30)
        todo += gc.get_referents(thing)
    assert len(seen) > 5


def test_links_to_other_folders_are_followed_and_circles_are_not(tmp_path: Path, make_tree: Make) -> None:
    root = make_tree(classes=2, images=3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (40, 40), "red").save(elsewhere / "more.png")
    first = next(path for path in sorted((root / "train").iterdir()))
    (first / "linked").symlink_to(elsewhere)
    for name in ("round", "and_round"):  # twice, so that forty steps into the circle are 2^40 folders
        (first / name).symlink_to(first)
    (elsewhere / "back").symlink_to(first)
    assert len(list(image_files(first))) == 4
    assert _load(root).train_full.num_images == 7


def test_images_come_in_torchvisions_order(make_tree: Make) -> None:
    from torchvision.datasets import ImageFolder

    root = make_tree(classes=3, images=4)
    for name in ("b/x.png", "a b/x.png", "a/x.png", "Z/deep/x.png", "a.png", "ä.png"):
        path = next(iter(sorted((root / "train").iterdir()))) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    wanted = ImageFolder(str(root / "train")).samples
    found = folder._images(root / "train", tuple(sorted(p.name for p in (root / "train").iterdir())))
    assert [str(path) for path in _paths(found)] == [path for path, _ in wanted]
    assert found.labels.tolist() == [label for _, label in wanted]


def _paths(found: Images) -> list[Path]:
    packed = found.read.args[0]  # type: ignore[attr-defined]
    return [Path(packed[n].decode()) for n in range(len(found.labels))]
