from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import jstc.data
from jstc.data import DataInfo, Dataset, Epoch, Part
from jstc.data.images import Encoded, Images, Look
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
    train = _load(make_tree(classes=2, images=2)).train_full
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
        (lambda root: (root / "train").rename(root / "trian"), r"has no train/, but trian/, val/"),
        (lambda root: (root / "val").rename(root / "dev"), r"has no test/, val/ or validation/"),
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
    root = make_tree(classes=2, images=1)
    for number in range(2):
        path = root / "val" / f"class{number}" / "0.png"
        path.rename(root / "val" / f"{number}.png")
        path.parent.rmdir()
    with pytest.raises(DataError, match="one folder per class"):
        _check(root)


def _damage(root: Path, *, of: int) -> None:
    for path in sorted((root / "val").rglob("*.png"))[:of]:
        path.write_bytes(b"x")


def _checked(root: Path, **keys: object) -> DataInfo:
    return jstc.data.check("imagefolder", root=root, settings=InputSettings.model_validate(keys))


def test_check_looks_at_images_and_compares_with_the_limit(make_tree: Make) -> None:
    root = make_tree(classes=4, images=1)
    _damage(root, of=2)
    [note] = [each for each in _checked(root, max_corrupt=2).notes if "cannot be read" in each]
    assert note.startswith("2 of the test images looked at cannot be read (")
    message = (
        r"2 of 4 images looked at, out of about 4, are damaged, .*allows 1 in all:\n  cannot read .*0\.png"
    )
    with pytest.raises(DataError, match=message):
        _checked(root, max_corrupt=1)


def test_check_thinks_of_the_images_that_it_did_not_look_at(make_tree: Make) -> None:
    root = make_tree(classes=4, images=10)
    _damage(root, of=20)  # of two classes all, of which 8 each are looked at
    with pytest.raises(DataError, match=r"16 of 32 images looked at, out of about 40, are damaged"):
        _checked(root, max_corrupt=19)
    _checked(root, max_corrupt=20)


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_check_looks_at_32_images_of_each_split_whatever_the_number_of_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    root, looked = tmp_path, []
    for number in range(2 * max(40, classes)):
        for split in ("train", "val"):
            _paint(root / split / f"class{number % classes}" / f"{number}.png")
    look = Encoded.look
    monkeypatch.setattr(Encoded, "look", lambda self: looked.append(Path(self.where)) or look(self))
    _check(root)
    per_class = Counter(path.parent for path in looked)
    assert len(set(looked)) == 64
    assert max(per_class.values()) - min(per_class.values()) <= 1
    assert len(per_class) == 2 * min(classes, 32)


@pytest.mark.parametrize("cut", [True, False])
def test_every_second_image_damaged_is_told_before_the_run(make_tree: Make, *, cut: bool) -> None:
    root = make_tree(classes=2, images=16)  # far fewer than the hundred that are allowed in all
    for number in range(2):
        for path in sorted((root / "train" / f"class{number}").iterdir())[1::2]:
            path.write_bytes(path.read_bytes()[:400] if cut else b"no image")
    with pytest.raises(DataError, match=r"16 of 32 images looked at, out of about 32, are damaged") as found:
        _check(root)
    assert "raise input.max_corrupt" in found.value.advice
    _checked(root, max_corrupt=32)


def test_the_heads_of_more_images_are_looked_at(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(classes=2, images=100)
    monkeypatch.setattr(Encoded, "look", lambda self: Look(40, 40, False, False))
    for path in sorted((root / "train" / "class0").iterdir()):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r" of 64 images looked at, out of about 200, are damaged"):
        _check(root)


def test_a_single_damaged_image_in_the_sample_may_be_chance(make_tree: Make) -> None:
    root = make_tree(classes=3, images=40)
    (root / "val" / "class0" / "0.png").write_bytes(b"x")
    for keys in ({"max_corrupt": 1}, {}):
        _checked(root, **keys)


def test_a_folder_that_cannot_be_looked_into_is_named(
    make_tree: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(images=1)

    real = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("class1"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"cannot look into .*Permission denied: '.*train/class1'"):
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
    for above in (root / "train", root):  # whose images are not of this class
        (first / f"up_to_{above.name}").symlink_to(above)
    (elsewhere / "back").symlink_to(first)
    assert len(list(image_files(first))) == 4
    assert _load(root).train_full.num_images == 7


@pytest.mark.parametrize("labelled", [True, False])
def test_of_two_splits_to_report_on_it_is_the_test_split_if_that_has_the_classes(
    make_tree: Make, labelled: bool
) -> None:
    root = make_tree(classes=2, images=3)
    shutil.copytree(root / "val", root / "test")
    if not labelled:  # as ImageNet's
        first, *others = sorted((root / "test").iterdir())
        first.rename(root / "test" / "unknown")
        for other in others:
            shutil.rmtree(other)
    [note] = [note for note in _load(root).info.notes if "not read" in note]
    assert note.endswith("test split: val/" if labelled else "test split: test/")


def test_images_come_in_torchvisions_order(make_tree: Make) -> None:
    from torchvision.datasets import ImageFolder

    root = make_tree(classes=3, images=4)
    for name in ("b/x.png", "a b/x.png", "a/x.png", "Z/deep/x.png", "a.png", "ä.png"):
        path = next(iter(sorted((root / "train").iterdir()))) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    wanted = ImageFolder(str(root / "train")).samples
    found = folder.load("imagefolder", root, InputSettings()).train
    assert isinstance(found, Images)
    assert [str(path) for path in _paths(found)] == [path for path, _ in wanted]
    assert found.labels.tolist() == [label for _, label in wanted]


def _paths(found: Images) -> list[Path]:
    packed = found.read.args[0]  # type: ignore[attr-defined]
    return [Path(packed[n].decode()) for n in range(len(found.labels))]


# Trees as people have them.


def _paint(path: Path, color: object = "red", mode: str = "RGB", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 40), color).save(path, **options)  # type: ignore[arg-type]


def test_every_ending_that_pillow_reads_is_read_and_the_others_are_counted(make_tree: Make) -> None:
    root = make_tree(classes=2, images=1)
    folder = root / "train" / "class0"
    for name in ("a.gif", "b.JFIF", "c.jpe", "d.WebP", "e.TIF", "f.JPG"):
        kind = {"JFIF": "JPEG", "jpe": "JPEG", "TIF": "TIFF", "JPG": "JPEG"}.get(name[2:], name[2:])
        _paint(folder / name, format=kind)
    for name in ("x.heic", "y.HEIC", "notes.txt", "README"):
        (folder / name).write_bytes(b"")
    [note] = [each for each in _checked(root).notes if "left out" in each]
    assert note.startswith("4 files are left out")
    assert note.endswith(": 2 .heic, 1 without an ending, 1 .txt")
    assert _load(root).train_full.num_images == 8
    assert not [each for each in _checked(root).notes if "cannot be read" in each]


def test_the_first_picture_of_a_moving_gif_is_taken(make_tree: Make) -> None:
    root = make_tree(classes=2, images=1)
    moving = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    moving[0].save(root / "val" / "class0" / "0.gif", save_all=True, append_images=moving[1:])
    (root / "val" / "class0" / "0.png").unlink()
    images, _ = next(_load(root).test.originals(1))
    assert images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_what_systems_leave_beside_images_is_passed_over(make_tree: Make) -> None:
    root = make_tree(classes=2, images=3)
    for path in list(root.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(60))
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".thumbnails/1.png", "@eaDir/2.png"):
            (path.parent / name).parent.mkdir(exist_ok=True)
            (path.parent / name).write_bytes(b"none")
    for name in ("__MACOSX", ".cache"):
        (root / "train" / name).mkdir()
    data = _load(root)
    assert (data.train_full.num_images, data.test.num_images) == (6, 6)
    assert not [each for each in data.info.notes if "left out" in each or "read" in each]


def test_splits_may_be_called_otherwise_and_in_capitals(make_tree: Make) -> None:
    root = make_tree(classes=2, images=2, val="VALID")
    (root / "train").rename(root / "Training")
    assert _load(root).test.num_images == 4


@pytest.mark.parametrize("alone", [True, False])
def test_without_a_test_split_a_share_of_each_class_is_set_aside(make_tree: Make, *, alone: bool) -> None:
    root = make_tree(classes=3, images=10)
    _remove(root / "val")
    (root / "val").rmdir()
    root = root / "train" if alone else root
    infos = [_load(root).info, _checked(root)]
    for info in infos:
        [note] = [each for each in info.notes if "test split" in each]
        assert "20 % of the images of each class" in note
        assert info.labels == ("class0", "class1", "class2")
    settings = InputSettings(image_size=40, workers=0, test_fraction=0.4)
    runs = [
        jstc.data.load("imagefolder", root=root, settings=settings, seed=seed, device=CPU) for seed in (0, 1)
    ]
    for data in runs:
        assert (data.train_full.num_images, data.test.num_images) == (18, 12)
        assert torch.cat([labels for _, labels in data.test.ordered(8)]).bincount().tolist() == [4, 4, 4]
    test, again = (_pixels(data.test) for data in runs)
    assert test == again
    assert len(test | _pixels(runs[0].train_full)) == 30


def _pixels(split: Any) -> set[bytes]:
    return {image.numpy().tobytes() for images, _ in split.originals(64) for image in images}


def test_one_class_folder_is_refused_with_the_likely_mistake(make_tree: Make) -> None:
    root = make_tree(classes=1, images=2)
    with pytest.raises(
        DataError, match=r"train has one class folder, class0, .* level of the folders one off"
    ):
        _check(root)
    (root / "all").mkdir()
    for name in ("train", "val"):
        (root / name).rename(root / "all" / name)
    with pytest.raises(DataError, match=r"its folders are splits: give --data .*all$"):
        _check(root)
    for name in ("cat", "dog"):
        _paint(root / "all" / "train" / "class0" / name / "0.png")
    with pytest.raises(DataError, match=r"class0 has the folders cat, dog: if these are the classes"):
        _check(root / "all")


def test_splits_with_unknown_names_are_not_taken_for_classes(make_tree: Make) -> None:
    root = make_tree(classes=2, images=2)
    (root / "train").rename(root / "entrenamiento")
    (root / "val").rename(root / "prueba")
    with pytest.raises(DataError, match=r"entrenamiento, prueba in .* seem to be splits, not classes"):
        _check(root)


def test_images_in_both_splits_and_splits_the_wrong_way_round_are_said(make_tree: Make) -> None:
    root = make_tree(classes=2, images=3)
    assert [each for each in _checked(root).notes if "6 of 6 test images looked at are in " in each]
    for path in (root / "val").rglob("*.png"):
        _paint(path, "blue")
    assert not _checked(root).notes
    for number in range(9):
        _paint(root / "val" / "class1" / f"more{number}.png")
    assert [each for each in _checked(root).notes if "the wrong way round" in each]
    _remove(root / "val")
    (root / "val").rmdir()
    (root / "val").symlink_to(root / "train")
    assert [each for each in _checked(root).notes if "are one folder" in each]


def test_a_turned_photograph_is_read_as_it_is_stored_and_that_is_said(make_tree: Make) -> None:
    root = make_tree(classes=2, images=1)
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("RGB", (40, 20), "red")
    image.save(root / "val" / "class0" / "0.png", exif=exif)
    assert next(_load(root).test.originals(1))[0].shape == (1, 3, 20, 40)
    [note] = [each for each in _checked(root).notes if "EXIF" in each]
    assert note.startswith("1 of 4 images looked at have a rotation")


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", [255, 255, 255]), ("black", [0, 0, 0]), ((1, 2, 3), [1, 2, 3]), ("none", [9, 8, 7])],
)
def test_transparent_images_are_laid_on_a_colour_and_that_is_said(
    make_tree: Make, background: Any, expected: list[int]
) -> None:
    root = make_tree(classes=2, images=1)
    path = root / "val" / "class0" / "0.png"
    _paint(path, (9, 8, 7, 0), mode="RGBA")
    _paint(root / "val" / "class1" / "0.png", (9, 8, 7, 255), mode="RGBA")
    settings = InputSettings(image_size=40, workers=0, background=background)
    data = jstc.data.load("imagefolder", root=root, settings=settings, seed=0, device=CPU)
    [(images, _)] = data.test.originals(2)
    assert images[:, :, 5, 5].tolist() == [expected, [9, 8, 7]]
    [(prepared, _)] = data.test.ordered(2)
    mean, std = (torch.tensor(each) for each in (data.info.mean, data.info.std))
    assert (prepared[0, :, 5, 5] * std + mean).mul(255).round().tolist() == expected
    [note] = [each for each in data.info.notes if "transparent" in each]
    assert note.startswith("1 of 4 images looked at are transparent: ")
    assert data.info.preprocessing.background == (None if background == "none" else tuple(expected))


def test_a_class_folder_that_leads_back_is_none(make_tree: Make) -> None:
    root = make_tree(classes=2, images=2)
    (root / "train" / "again").symlink_to(root / "train")
    (root / "train" / "above").symlink_to(root)
    (root / "train" / "itself").symlink_to(root / "train" / "itself")
    (root / "train" / "class0" / "x.png").symlink_to(root / "train" / "class0" / "x.png")
    data = _load(root)
    assert data.info.labels == ("class0", "class1")
    assert data.train_full.num_images == 5
    assert [each for each in data.info.notes if "1 of the training images looked at cannot be read" in each]


def test_sixteen_bits_of_which_few_are_used_are_said(make_tree: Make) -> None:
    root = make_tree(classes=2, images=2)
    ramp = np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40)
    for number, values in enumerate((ramp, 16 * ramp)):
        Image.fromarray(values).save(root / "val" / f"class{number}" / "0.png")
    [note] = [each for each in _checked(root).notes if "16 bits" in each]
    assert note.startswith("1 of 8 images looked at use less than a sixteenth")


def test_folders_of_neither_split_are_said(make_tree: Make) -> None:
    root = make_tree(classes=2, images=2)
    for name in ("test", "extra", ".git", "__pycache__"):
        (root / name).mkdir()
    [note] = [each for each in _checked(root).notes if "not read" in each]
    assert note.endswith(": extra/, test/")
    (root / "val").rename(root / "spare")
    with pytest.raises(
        DataError, match=r"test has no class folders; .*without .*test a share of the training"
    ):
        _check(root)
