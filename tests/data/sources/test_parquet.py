from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import jstc.data
from jstc.core.preprocessing import Preprocessing
from jstc.data import Dataset, Epoch
from jstc.data.decoding import decode_all
from jstc.data.images import CorruptImages
from jstc.data.in_memory import MemorySplit
from jstc.data.loader import LoaderSplit
from jstc.data.pixels import prepared_pixels
from jstc.data.sources import parquet, parquet_columns, tables
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

Make = Callable[..., Path]


def _load(root: Path, *, image_size: int | None = None, workers: int = 0) -> Dataset:
    settings = InputSettings(image_size=image_size, workers=workers)
    return jstc.data.load("parquet", root=root, settings=settings, seed=0, device=torch.device("cpu"))


def _numbers(data: Dataset) -> list[int]:
    images = torch.cat([images for images, _ in data.test.ordered(5)])
    red = (images[:, 0].mean((1, 2)) * data.info.std[0] + data.info.mean[0]) * 255
    return red.round().long().tolist()


@pytest.mark.parametrize("struct", [True, False])
def test_small_images_go_to_memory(make_parquet: Make, struct: bool) -> None:
    data = _load(make_parquet(struct=struct))
    assert isinstance(data.test, MemorySplit)
    assert _numbers(data) == list(range(12))
    assert torch.cat([labels for _, labels in data.test.ordered(5)]).tolist() == [0, 1, 2] * 4
    assert data.info.labels == ("0", "1", "2")
    assert (data.info.height, data.info.width) == (32, 32)


def test_large_images_are_decoded_as_they_are_needed(make_parquet: Make) -> None:
    root = make_parquet(count=4, side=100)
    data = _load(root, image_size=48)
    assert isinstance(data.test, LoaderSplit)
    assert _numbers(data) == [0, 1, 2, 3]
    assert next(data.train_full.shuffled(4, Epoch(0, 0)))[0].shape == (4, 3, 48, 48)
    assert jstc.data.check("parquet", root=root).height == 224
    assert jstc.data.check("parquet", root=root).resize_side == 256


def test_what_is_decoded_into_memory_is_stretched(
    make_parquet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_parquet(side=32)
    assert jstc.data.check("parquet", root=root).resize_side is None
    monkeypatch.setattr(tables, "_DECODED_BYTES", 1000)  # too many for memory: read one by one, and cropped
    assert jstc.data.check("parquet", root=root).resize_side == 37


def test_image_size_resizes_small_images(make_parquet: Make) -> None:
    data = _load(make_parquet(), image_size=40)
    assert next(data.test.ordered(2))[0].shape == (2, 3, 40, 40)
    assert _numbers(data) == list(range(12))


def test_worker_processes_decode_the_same(make_parquet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jstc.data.decoding._CHUNK", 5)
    assert _numbers(_load(make_parquet(), workers=2)) == list(range(12))


@pytest.mark.parametrize("names", [("train", "validation"), ("train", "val"), ("data/train", "data/test")])
def test_other_file_names(make_parquet: Make, names: tuple[str, str]) -> None:
    assert _numbers(_load(make_parquet(names))) == list(range(12))


def test_shards_are_read_in_order(make_parquet: Make) -> None:
    shards = ("train-00000-of-00002-ab12", "train-00001-of-00002-ab12", "test-00000-of-00001")
    root = make_parquet(shards)
    assert _load(root).train_full.num_images == 24
    (root / "train-00001-of-00002-ab12.parquet").unlink()
    with pytest.raises(DataError, match=r"1 shards like .*; the name says 2"):
        _load(root)


def test_text_labels_are_sorted(make_parquet: Make) -> None:
    data = _load(make_parquet(label=lambda number: ["dog", "cat"][number % 2]))
    assert data.info.labels == ("cat", "dog")
    assert next(data.test.ordered(4))[1].tolist() == [1, 0, 1, 0]


def test_class_names_come_from_classes_txt_first_then_from_the_schema(make_parquet: Make) -> None:
    root = make_parquet()
    meta = {"info": {"features": {"label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}}}
    path = root / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(meta)}), path)
    assert jstc.data.check("parquet", root=root).labels == ("x", "y", "z")
    (root / "classes.txt").write_text("red\ngreen\nblue\n\n")
    assert jstc.data.check("parquet", root=root).labels == ("red", "green", "blue")


def _rewrite(root: Path, name: str, **columns: list[object]) -> None:
    path = root / "test.parquet"
    table = pq.read_table(path)
    table = table.drop_columns([name])
    for column, values in columns.items():
        table = table.append_column(column, pa.array(values))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda r: (r / "test.parquet").rename(r / "tset.parquet"),
            r"has no test\.parquet or validation\.parquet or val\.parquet",
        ),
        (lambda r: (r / "test.parquet").write_bytes(b"x" * 99), r"test\.parquet is not a parquet file"),
        (lambda r: _rewrite(r, "label", target=[0] * 12), r"has no column label; its columns: .*'target'"),
        (lambda r: _rewrite(r, "image", image=[1.5] * 12), r"image in .* is double; expected bytes"),
        (lambda r: _rewrite(r, "label", label=[0.5] * 12), r"label in .* is double; expected whole numbers"),
        (lambda r: _rewrite(r, "label", label=[-1] * 12), r"row 0 of .*test\.parquet is not labelled"),
        (lambda r: _rewrite(r, "label", label=[0, 7] * 6), r"row 1 of .* has label 7; expected one of 3"),
        (
            lambda r: (r / "classes.txt").write_text("one\ntwo"),
            r"row 2 of .*train.* has label 2; .* one of 2",
        ),
    ],
    ids=["missing", "no parquet", "no label", "image type", "label type", "unlabelled", "label", "names"],
)
def test_check_says_what_is_wrong(make_parquet: Make, damage: Callable[[Path], object], message: str) -> None:
    root = make_parquet()
    jstc.data.check("parquet", root=root)
    damage(root)
    with pytest.raises(DataError, match=message):
        jstc.data.check("parquet", root=root)


def test_without_a_test_file_a_share_of_each_class_is_set_aside(make_parquet: Make) -> None:
    data = _load(make_parquet(("train",), count=30))
    assert (data.train_full.num_images, data.test.num_images) == (24, 6)
    assert torch.cat([labels for _, labels in data.test.ordered(5)]).bincount().tolist() == [2, 2, 2]
    [note] = data.info.notes
    assert note.startswith("there is no test split: 20 % of the images of each class")


def test_columns_may_be_named_by_the_recipe(make_parquet: Make) -> None:
    root = make_parquet()
    for name in ("train", "test"):
        table = pq.read_table(root / f"{name}.parquet").rename_columns(["picture", "kind"])
        pq.write_table(table, root / f"{name}.parquet")
    with pytest.raises(DataError, match=r"no column image and label; its columns: .*input\.label_column"):
        jstc.data.check("parquet", root=root)
    settings = InputSettings(image_column="picture", label_column="kind")
    assert jstc.data.check("parquet", root=root, settings=settings).labels == ("0", "1", "2")


@pytest.mark.parametrize("read_through", [True, False])
def test_damaged_images_anywhere_are_told_before_the_run(
    make_parquet: Make, make_png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, *, read_through: bool
) -> None:
    if not read_through:
        monkeypatch.setattr(parquet, "_WHOLE_BYTES", 0)
    root = make_parquet(("train-00000-of-00002", "train-00001-of-00002", "test"), count=80, struct=False)
    path = root / "train-00001-of-00002.parquet"  # the first file is sound
    images = [make_png(n, 32)[: 99 if n % 4 else None] for n in range(80)]
    table = pa.table({"image": images, "label": [n % 3 for n in range(80)]})
    pq.write_table(table, path, row_group_size=10)
    place = root if read_through else path
    pattern = rf"of 32 images looked at, out of about 160, are damaged.*\n.* row \d+ of {place}"
    with pytest.raises(DataError, match=pattern):
        jstc.data.check("parquet", root=root)


def test_files_of_neither_split_are_said(make_parquet: Make) -> None:
    root = make_parquet(("train", "test", "validation"))
    assert jstc.data.check("parquet", root=root).notes[0].endswith("test split: validation.parquet")


def test_shards_of_other_columns_are_refused(make_parquet: Make) -> None:
    root = make_parquet(("train-00000-of-00002", "train-00001-of-00002", "test"))
    path = root / "train-00001-of-00002.parquet"
    table = pq.read_table(path)
    flat = table.column("image").combine_chunks().field("bytes")
    pq.write_table(table.set_column(0, "image", flat), path)
    with pytest.raises(DataError, match=r"train-00001.* in other columns than .*train-00000"):
        jstc.data.check("parquet", root=root)


def test_images_of_another_size_are_prepared_as_any(make_parquet: Make, tmp_path: Path) -> None:
    root = make_parquet()
    labels = parquet.check(root, InputSettings()).labels
    found = parquet.images(root, "test", labels, InputSettings())
    to = Preprocessing(16, 24, (0.0,) * 3, (1.0,) * 3, resize_side=40)
    images, _ = decode_all(found, to, workers=0, corrupt=CorruptImages())
    expected = [prepared_pixels(found.read(n).rgb(None), 16, 24, 40, "bilinear") for n in range(12)]
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)


def test_a_set_larger_than_memory_is_refused(make_parquet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_parquet()
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(DataError, match=r"too much for the .* of memory here; unpack it into an image tree"):
        _load(root)


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _bomb(root: Path, image: bytes, rows: int, **options: object) -> None:
    images = pa.array([{"bytes": image, "path": None}], type=_IMAGE)
    # A dictionary array of one value takes no memory here, however many rows mean it.
    table = pa.table(
        {"image": images.take(pa.array([0] * rows)), "label": pa.array([0] * rows, type=pa.int64())}
    )
    for name in ("train", "test"):
        pq.write_table(table, root / f"{name}.parquet", compression="zstd", **options)


@pytest.mark.parametrize(
    ("image", "rows", "options"),
    [
        (
            bytes(2**20),
            40,
            {"use_dictionary": True, "dictionary_pagesize_limit": 2**22},
        ),  # one value, meant often
        (bytes(2**22), 10, {"use_dictionary": False}),  # compressed
        (bytes(2**20), 40, {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY"}}),
        (b"", 2**15, {"use_dictionary": True}),  # rows
    ],
)
def test_a_small_file_that_stands_for_much_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes, rows: int, options: dict[str, object]
) -> None:
    monkeypatch.setattr(parquet_columns, "_SOUND_BYTES", 2**23)
    monkeypatch.setattr(parquet_columns, "_SOUND_ROWS", 2**10)
    _bomb(tmp_path, image, rows, **options)
    size = (tmp_path / "train.parquet").stat().st_size
    assert size < 50_000
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    with pytest.raises(
        DataError, match=r"train.parquet has \d+ kB and holds .*: no images are stored so tightly"
    ):
        parquet.images(tmp_path, "train", ("0",), InputSettings())
    assert pool.bytes_allocated() <= before + 2**23
    with pytest.raises(DataError):
        parquet.check(tmp_path, InputSettings())


def test_the_same_image_a_few_times_is_no_bomb(make_parquet: Make) -> None:
    root = make_parquet()
    table = pq.read_table(root / "train.parquet").take(pa.array([0] * 3000))
    pq.write_table(table, root / "train.parquet", compression="zstd")
    assert len(parquet.images(root, "train", ("0", "1", "2"), InputSettings()).labels) == 3000


def test_a_test_file_that_numbers_the_classes_otherwise_has_them_by_name(make_parquet: Make) -> None:
    root = make_parquet()
    for name, names in (("train", ["a", "b", "c"]), ("test", ["c", "a", "b"])):
        path = root / f"{name}.parquet"
        known = {"info": {"features": {"label": {"names": names}}}}
        table = pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps(known)})
        pq.write_table(table, path)
    data = _load(root)
    assert data.info.labels == ("a", "b", "c")
    assert torch.cat([labels for _, labels in data.test.ordered(5)]).tolist() == [2, 0, 1] * 4
