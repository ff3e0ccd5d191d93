"""Data sets of the Hugging Face Hub: from folders in its forms, and from what its library has kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jstc.data
from jstc.data import Dataset, Epoch
from jstc.data.in_memory import MemorySplit
from jstc.data.loader import LoaderSplit
from jstc.data.sources import hub
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

library = pytest.importorskip("datasets", reason="the extra hf is not installed")

CPU = torch.device("cpu")
MakePng = Callable[..., bytes]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written, and nobody asks the Hub."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub._of_hub.cache_clear()
    library.disable_progress_bars()


@pytest.fixture
def make_rows(make_png: MakePng) -> Callable[..., Any]:
    """A split of `count` pictures, whose red is their number, with a column of labels."""

    def make(
        count: int = 12,
        *,
        side: int = 100,
        label: Callable[[int], Any] = lambda number: number % 2,
        kind: Any = None,
        columns: tuple[str, str] = ("image", "label"),
    ) -> Any:
        kind = kind or library.ClassLabel(names=["cat", "dog"])
        rows = {
            columns[0]: [{"bytes": make_png(n, side), "path": None} for n in range(count)],
            columns[1]: [label(n) for n in range(count)],
        }
        features = library.Features({columns[0]: library.Image(), columns[1]: kind})
        return library.Dataset.from_dict(rows, features=features)

    return make


MakeRows = Callable[..., Any]


def _saved(folder: Path, **splits: Any) -> str:
    library.DatasetDict(splits).save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}"


def _load(name: str, **keys: Any) -> Dataset:
    settings = InputSettings.model_validate({"workers": 0} | keys)
    jstc.data.check(name, root=None, settings=settings)
    return jstc.data.load(name, root=None, settings=settings, seed=0, device=CPU)


def _numbers(data: Dataset, split: str = "test") -> list[int]:
    images = torch.cat([images for images, _ in getattr(data, split).ordered(5)])
    red = (images[:, 0].mean((1, 2)) * data.info.std[0] + data.info.mean[0]) * 255
    return red.round().long().tolist()


def test_large_images_stay_on_the_disk_and_are_decoded_as_they_are_needed(
    tmp_path: Path, make_rows: MakeRows
) -> None:
    name = _saved(tmp_path, train=make_rows(), test=make_rows(6))
    data = _load(name, image_size=48)
    assert isinstance(data.test, LoaderSplit)
    assert data.info.labels == ("cat", "dog")
    assert _numbers(data) == list(range(6))
    assert torch.cat([labels for _, labels in data.test.ordered(5)]).tolist() == [0, 1] * 3
    whole = list(data.train_full.shuffled(4, Epoch(0, 0)))
    again = list(_load(name, image_size=48, workers=2).train_full.shuffled(4, Epoch(0, 0, start=1)))
    assert all(torch.equal(*pair) for pair in zip(whole[1][0], again[0][0], strict=True))


def test_they_give_the_batches_of_the_same_images_in_parquet_files(
    tmp_path: Path, make_rows: MakeRows
) -> None:
    for side in (32, 100):
        folder = tmp_path / str(side)
        folder.mkdir()
        name = _saved(folder, train=make_rows(side=side), test=make_rows(4, side=side))
        make_rows(side=side).to_parquet(str(folder / "train.parquet"))
        make_rows(4, side=side).to_parquet(str(folder / "test.parquet"))
        settings = InputSettings(workers=0, image_size=40)
        one = jstc.data.load(name, root=None, settings=settings, seed=3, device=CPU)
        other = jstc.data.load("parquet", root=folder, settings=settings, seed=3, device=CPU)
        assert isinstance(one.train, MemorySplit if side == 32 else LoaderSplit)
        assert one.info.labels == other.info.labels == ("cat", "dog")
        for mine, theirs in zip(
            one.train.shuffled(4, Epoch(3, 1)), other.train.shuffled(4, Epoch(3, 1)), strict=True
        ):
            assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def test_a_plain_folder_of_images_is_read_by_the_library(tmp_path: Path, make_png: MakePng) -> None:
    for split in ("train", "test"):
        for n in range(8):
            path = tmp_path / "tree" / split / ["cat", "dog"][n % 2] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png(n, 100))
    data = _load(f"hf:{tmp_path / 'tree'}", image_size=48)
    assert data.info.labels == ("cat", "dog")
    assert _numbers(data) == [0, 2, 4, 6, 1, 3, 5, 7]
    (tmp_path / "tree" / "test" / "cat" / "4.png").write_bytes(b"none")
    assert _numbers(data) == [0, 2, 6, 1, 3, 5, 7]
    assert [where.endswith("cat/4.png") for where in data.corrupt.found] == [True]


@pytest.mark.parametrize(
    ("splits", "test", "unused"),
    [
        ({"train": 12, "validation": 5}, 5, ""),
        ({"train": 12, "validation": 5, "test": 4}, 4, "validation"),
        ({"train": 12, "validation": 5, "test": 0}, 5, "test"),
        ({"train": 12}, 2, ""),
        ({"full": 12}, 2, ""),
    ],
)
def test_the_split_to_report_on_is_a_labelled_one_or_set_aside(
    tmp_path: Path, make_rows: MakeRows, splits: dict[str, int], test: int, unused: str
) -> None:
    made = {
        name: make_rows(count or 3, label=(lambda n: n % 2) if count else (lambda n: -1))
        for name, count in splits.items()
    }
    data = _load(_saved(tmp_path, **made), image_size=32)
    assert data.test.num_images == test
    assert data.train_full.num_images == (12 if len(splits) > 1 else 10)
    assert any("set aside" in note for note in data.info.notes) == (len(splits) == 1)
    assert any(note.endswith(f"not {unused}") for note in data.info.notes) == bool(unused)


def test_labels_without_names_are_sorted_texts_or_numbers(tmp_path: Path, make_rows: MakeRows) -> None:
    texts = make_rows(label=lambda n: ["wolf", "bear"][n % 2], kind=library.Value("string"))
    assert _load(_saved(tmp_path / "a", train=texts), image_size=32).info.labels == ("bear", "wolf")
    numbers = make_rows(label=lambda n: n % 3, kind=library.Value("int64"))
    assert _load(_saved(tmp_path / "b", train=numbers), image_size=32).info.labels == ("0", "1", "2")


def test_columns_are_found_by_their_kind_or_named_by_the_recipe(tmp_path: Path, make_rows: MakeRows) -> None:
    odd = make_rows(columns=("photo", "species"))
    assert _load(_saved(tmp_path / "a", train=odd), image_size=32).info.labels == ("cat", "dog")
    kind = library.ClassLabel(names=["old", "young", "middle"])
    two = odd.add_column("age", [n % 3 for n in range(12)]).cast_column("age", kind)
    name = _saved(tmp_path / "b", train=two)
    with pytest.raises(DataError, match=r"which column has the label\? species and age could be it") as found:
        _load(name)
    assert found.value.advice == "name yours by input.label_column"
    assert _load(name, image_size=32, label_column="age").info.labels == ("old", "young", "middle")
    with pytest.raises(DataError, match=r"image\? there is no picture; its columns: photo, species, age"):
        _load(name, label_column="age", image_column="picture")
    with pytest.raises(DataError, match=r"column age has no encoded images"):
        _load(name, label_column="species", image_column="age")


def test_half_of_the_images_damaged_is_told_before_the_run(tmp_path: Path, make_png: MakePng) -> None:
    images = [{"bytes": make_png(n, 100) if n % 2 else b"no image", "path": None} for n in range(40)]
    rows = {"image": images, "label": [n // 20 for n in range(40)]}
    kinds = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    name = _saved(tmp_path, train=library.Dataset.from_dict(rows, features=kinds))
    with pytest.raises(
        DataError, match=r"of 32 images looked at, out of about 40, are damaged.*\n.*row \d+ of train"
    ):
        jstc.data.check(name, root=None)


def _keep(folder: Path, repository: str, configuration: str, rows: Any) -> None:
    """What the library leaves in its cache when it has loaded a data set."""
    organisation, dataset = repository.split("/")
    place = folder / f"{organisation}___{dataset}" / configuration / "0.0.0" / "0123456789abcdef"
    rows.save_to_disk(str(folder / "tmp"))
    place.mkdir(parents=True)
    [arrow] = (folder / "tmp").glob("*.arrow")
    arrow.rename(place / f"{dataset}-train.arrow")
    info = rows.info.copy()
    info.splits = library.splits.SplitDict(
        {"train": library.splits.SplitInfo("train", num_examples=len(rows))}
    )
    info.dataset_name, info.config_name, info.builder_name = dataset, configuration, "parquet"
    info.write_to_directory(str(place))


def test_what_the_library_has_kept_needs_no_network(tmp_path: Path, make_rows: MakeRows) -> None:
    _keep(tmp_path / "cache", "org/pets", "default", make_rows())
    _keep(tmp_path / "cache2" / "x", "org/pets", "small", make_rows(8))
    (tmp_path / "cache2" / "x" / "org___pets" / "small").rename(tmp_path / "cache" / "org___pets" / "small")
    assert _load("hf:org/pets:default", image_size=32).train_full.num_images == 10
    assert _load("hf:org/pets:small", image_size=32).train_full.num_images == 6


def test_without_a_network_and_a_copy_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no connection to the Hugging Face Hub, and the data are not on"
    ) as found:
        jstc.data.check("hf:org/none", root=None)
    assert found.value.exit_code == 2 and "hf:./DIR" in found.value.advice


def test_what_is_no_data_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (f"hf:{tmp_path}/gone", "gone does not exist"),
        (f"hf:{tmp_path}/empty", "the datasets library cannot load it"),
        ("hf:a/b/c", "is no name of a data set; expected hf:ORG/NAME"),
        ("hf:", "is no name of a data set"),
    ):
        with pytest.raises(DataError, match=message):
            jstc.data.check(name, root=None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    hub._library.cache_clear()
    with pytest.raises(DataError, match=r"needs the package datasets: pip install '.*\[hf\]'"):
        jstc.data.check("hf:org/name", root=None)
    hub._library.cache_clear()


def test_code_of_a_data_set_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(DataError, match="cannot load it"):
        jstc.data.check(f"hf:{folder}", root=None)
    assert not (tmp_path / "ran").exists()


def test_a_test_split_that_numbers_the_classes_otherwise_has_them_by_name(
    tmp_path: Path, make_rows: MakeRows
) -> None:
    other = make_rows(6, kind=library.ClassLabel(names=["dog", "cat"]))
    data = _load(_saved(tmp_path, train=make_rows(), test=other), image_size=48)
    assert torch.cat([labels for _, labels in data.test.ordered(5)]).tolist() == [1, 0] * 3


def test_a_class_of_the_test_split_alone_is_refused(tmp_path: Path, make_rows: MakeRows) -> None:
    name = _saved(
        tmp_path, train=make_rows(), test=make_rows(6, kind=library.ClassLabel(names=["cat", "owl"]))
    )
    with pytest.raises(DataError, match=r"row 1 of test .* has label 'owl'; expected one of 2 classes"):
        _load(name)


def test_damaged_images_without_a_test_split_are_told(tmp_path: Path, make_rows: MakeRows) -> None:
    rows = make_rows()
    pictures = [{"bytes": b"x" if n == 3 else one["bytes"], "path": None} for n, one in enumerate(
        rows.cast_column("image", library.Image(decode=False))["image"])]  # fmt: skip
    damaged = library.Dataset.from_dict({"image": pictures, "label": rows["label"]}, features=rows.features)
    info = jstc.data.check(_saved(tmp_path, train=damaged), root=None)
    [note] = [each for each in info.notes if "cannot be read" in each]
    assert note.startswith("1 of the images looked at cannot be read (row 3 of train of ")
