"""Tar files as a data set."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import jstc.data
from jstc.data import Dataset, Epoch
from jstc.data.sources import shards, webdataset
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

Make = Callable[..., Path]
MakePng = Callable[..., bytes]
Member = tuple[str, bytes]


def write_tar(path: Path, members: list[Member]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def make_shards(tmp_path: Path, make_png: MakePng) -> Make:
    """Two training shards of six images and one of four to test on; the number of an image is in its red."""

    def make(
        label: Callable[[int], Member] = lambda n: ("cls", str(n % 3).encode()), *, sub: bool = True
    ) -> Path:
        for name, numbers in (("train-0", range(6)), ("train-1", range(6, 12)), ("val-0", range(4))):
            place = f"{name.split('-')[0]}/{name}.tar" if sub else f"set-{name}.tar"
            members = [("readme.txt", b"about")]
            for n in numbers:
                kind, data = label(n)
                members += [(f"./a.b/{n:04}.{kind}", data), (f"./a.b/{n:04}.png", make_png(n))]
            write_tar(tmp_path / "set" / place, members)
        return tmp_path / "set"

    return make


def _settings(root: Path, **keys: object) -> InputSettings:
    return InputSettings.model_validate(
        {"image_size": 16, "workers": 0, "cache": root.parent / "kept"} | keys
    )


def _load(root: Path, *, at: str = "", say: Callable[[str], object] = len, **keys: object) -> Dataset:
    place, cpu, settings = Path(at or root), torch.device("cpu"), _settings(root, **keys)
    return jstc.data.load("webdataset", root=place, settings=settings, seed=0, device=cpu, say=say)


def _check(root: Path, **keys: object) -> jstc.data.DataInfo:
    return jstc.data.check("webdataset", root=root, settings=_settings(root, **keys))


def _numbers(data: Dataset) -> tuple[list[int], list[int]]:
    images, labels = next(data.test.ordered(12))
    red = (images[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
    return red.round().int().tolist(), labels.tolist()


@pytest.mark.parametrize("sub", [True, False])
def test_a_folder_of_shards_is_read(make_shards: Make, sub: bool) -> None:
    data = _load(make_shards(sub=sub))
    assert data.info.labels == ("0", "1", "2")
    assert (data.train_full.num_images, data.train.num_images, data.test.num_images) == (12, 10, 4)
    assert _numbers(data) == ([0, 1, 2, 3], [0, 1, 2, 0])


@pytest.mark.parametrize(
    "pattern", ["train/train-{0..1}.tar::{root}/val/val-0.tar", "{train/train-{0..1},val/val-0}.tar"]
)
def test_a_pattern_names_the_shards(make_shards: Make, pattern: str) -> None:
    root = make_shards()
    data = _load(root, at=f"{root}/{pattern.replace('{root}', str(root))}")
    assert data.train_full.num_images == 12
    assert _numbers(data)[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_order_and_augmentation_are_those_of_the_split_contract(make_shards: Make, workers: int) -> None:
    root = make_shards()
    whole = list(_load(root).train.shuffled(3, Epoch(1, 2)))
    tail = list(_load(root, workers=workers).train.shuffled(3, Epoch(1, 2, start=1)))
    assert len(whole) == 3
    for (images, labels), (same_images, same_labels) in zip(whole[1:], tail, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    other = next(_load(root).train.shuffled(3, Epoch(1, 3)))[0]
    assert not torch.equal(whole[0][0], other)


LABELS = {
    "names": lambda n: ("cls", b"catdogowl"[3 * (n % 3) :][:3] + b"\n"),
    "json number": lambda n: ("json", json.dumps({"width": 9, "label": n % 3}).encode()),
    "json name": lambda n: ("json", json.dumps({"label": ("cat", "dog", "owl")[n % 3]}).encode()),
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(
    "names", [("classes.txt", "cat\ndog\nowl\n"), ("dataset.json", '{"classes": ["cat","dog","owl"]}')]
)
def test_labels_are_numbers_or_names(
    make_shards: Make, label: Callable[[int], Member], names: tuple[str, str]
) -> None:
    root = make_shards(label)
    (root / names[0]).write_text(names[1])
    data = _load(root)
    assert data.info.labels == ("cat", "dog", "owl")
    assert _numbers(data)[1] == [0, 1, 2, 0]


def test_names_are_sorted_where_no_list_gives_them_an_order(make_shards: Make) -> None:
    assert _check(make_shards(LABELS["names"])).labels == ("cat", "dog", "owl")


def test_a_shard_is_read_through_once(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root, said = make_shards(), []
    (root / "classes.txt").write_text("a\nb\nc")
    monkeypatch.setattr(webdataset, "_SHARDS_LOOKED_INTO", 1)
    first = _numbers(_load(root, say=said.append))
    assert said == ["reading 1 shards through, once, to find their images"]  # the others were looked into
    kept = sorted((root.parent / "kept" / "indices").glob("*.npz"))
    assert len(kept) == 3
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_made", lambda path: pytest.fail(f"{path} was read again"))
        assert _numbers(_load(root, say=said.append)) == first
    assert len(said) == 1
    for path in kept:
        path.write_bytes(path.read_bytes()[:-50])
    assert _numbers(_load(root)) == first


def test_a_changed_shard_gets_a_new_index(make_shards: Make, make_png: MakePng) -> None:
    root = make_shards()
    _load(root)
    write_tar(root / "val" / "val-0.tar", [("x.png", make_png(200)), ("x.cls", b"2")])
    assert _numbers(_load(root)) == ([200], [2])


def test_hidden_files_are_no_samples(make_shards: Make, make_png: MakePng) -> None:
    root = make_shards()
    apple = [("./._7.png", b"of a Mac"), ("./7.png", make_png(7)), ("./._7.cls", b"\0"), ("./7.cls", b"2")]
    write_tar(_val(root), apple)
    images, labels = _numbers(_load(root))
    assert (images, labels) == ([7], [2])


def test_a_damaged_image_is_named_by_member_and_shard(make_shards: Make) -> None:
    root = make_shards()
    path = root / "val" / "val-0.tar"
    with tarfile.open(path) as archive:
        at = archive.getmember("./a.b/0002.png").offset_data
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"no image")
    data = _load(root)
    assert _numbers(data) == ([0, 1, 3], [0, 1, 0])
    assert data.corrupt.found == {f"./a.b/0002.png of {path}": "not an image"}


def _val(root: Path) -> Path:
    return root / "val" / "val-0.tar"


def _cut(root: Path) -> None:
    path = root / "train" / "train-0.tar"
    path.write_bytes(path.read_bytes()[:6000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, r"train-0\.tar is cut off or is no tar file"),
        (lambda root: (_val(root)).write_bytes(b"text" * 999), r"val-0\.tar is cut off or is no tar"),
        (lambda root: _val(root).rename(root / "rest-0.tar"), r"no test shards in .*set; expected a folder"),
        (lambda root: write_tar(_val(root), [("x.png", b"x")]), r"x in .*val-0\.tar has no label"),
        (lambda root: write_tar(_val(root), []), r"no images in .*val-0\.tar"),
        (lambda root: (root / "classes.txt").write_text("a\nb"), r"0002\.png of .*'2'; .*low 2, or .*: a, b"),
        (lambda root: (root / "dataset.json").write_text("{}"), r"dataset\.json does not list the classes"),
    ],
    ids=["cut off", "no tar", "no test shards", "no label", "empty", "label too large", "no classes"],
)  # fmt: skip
def test_mistakes_are_told_before_the_run(
    make_shards: Make, damage: Callable[[Path], object], message: str
) -> None:
    root = make_shards()
    damage(root)
    with pytest.raises(DataError, match=message):
        _load(root)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{root}/train/train-{0..3}.tar::{root}/val/val-0.tar", r"no shard at .*train-2\.tar and 1 more"),
        ("{root}/train-{3..1}.tar", r"\{3\.\.1\} is no range"),
        ("{root}/{0..999}-{0..999}-{0..999}.tar", r"more than 1,000,000 shards"),
        ("{root}/nowhere", r"no training shards in .*nowhere; expected"),
    ],
)
def test_patterns_that_name_nothing(make_shards: Make, pattern: str, message: str) -> None:
    root = make_shards()
    with pytest.raises(DataError, match=message):
        jstc.data.check("webdataset", root=Path(pattern.replace("{root}", str(root))))


def test_without_test_shards_a_share_of_each_class_is_set_aside(make_shards: Make) -> None:
    root = make_shards()
    _val(root).unlink()
    runs = [_load(root, test_fraction=0.5), _load(root, test_fraction=0.5)]
    assert [(data.train_full.num_images, data.test.num_images) for data in runs] == [(6, 6)] * 2
    assert torch.cat([labels for _, labels in runs[0].test.ordered(8)]).bincount().tolist() == [2, 2, 2]
    [note] = runs[0].info.notes
    assert note.startswith("there is no test split: 50 % of the images")


def test_shards_of_neither_split_are_said(make_shards: Make, make_png: MakePng) -> None:
    root = make_shards()
    for name in ("validation-0.tar", "rest-1.tar"):
        write_tar(root / name, [("1.cls", b"0"), ("1.png", make_png(1))])
    assert [note for note in _load(root).info.notes if note.endswith("split: rest-1.tar, validation-0.tar")]


def test_samples_whose_image_cannot_be_read_are_counted(make_shards: Make, make_png: MakePng) -> None:
    root = make_shards()
    members = [(f"{n}.{kind}", data) for n in range(3) for kind, data in (("cls", b"1"), ("heic", b"none"))]
    members += [("9.cls", b"2"), ("9.GIF", make_png(9)), ("8.cls", b"0"), ("8.png", make_png(8))]
    members += [("about.txt", b"no sample")]
    write_tar(_val(root), members)
    for _ in range(2):  # the second time from the index that was kept
        data = _load(root)
        assert data.test.num_images == 2
        [note] = [each for each in data.info.notes if "left out" in each]
        assert note.startswith("3 files are left out") and note.endswith(": 3 .heic")
