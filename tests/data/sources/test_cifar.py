from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import jstc.data
from jstc.core.torchvision_import import import_torchvision
from jstc.data import Epoch
from jstc.data.sources import cifar
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

CPU = torch.device("cpu")
FILES = {"cifar10": ["data_batch_1", "test_batch"], "cifar100": ["train", "test"]}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def _pixels(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3072)).astype(np.uint8)
    pixels[:, :1024] = np.arange(count)[:, None]  # the red plane tells the number
    return pixels


@pytest.fixture(params=["cifar10", "cifar100"])
def python_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CIFAR archive of 20 images per file, which torchvision takes for the published one."""
    name: str = request.param
    folder = tmp_path / FOLDERS[name]
    folder.mkdir()
    key = "labels" if name == "cifar10" else "fine_labels"
    sums = []
    for file in FILES[name]:
        data = pickle.dumps({"data": _pixels(20), key: [i % 10 for i in range(20)]})
        (folder / file).write_bytes(data)
        sums.append([file, hashlib.md5(data).hexdigest()])
    names = {"label_names" if name == "cifar10" else "fine_label_names": list(cifar.LABELS[name])}
    meta = pickle.dumps(names)
    (folder / "meta").write_bytes(meta)
    kind = getattr(import_torchvision("torchvision.datasets"), name.upper())
    monkeypatch.setattr(kind, "train_list", sums[:1])
    monkeypatch.setattr(kind, "test_list", sums[1:])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": hashlib.md5(meta).hexdigest()})
    return name


def _assert_numbers(name: str, root: Path) -> None:
    data = jstc.data.load(name, root=root, settings=InputSettings(workers=0), seed=0, device=CPU)
    images, labels = next(data.test.ordered(20))
    red = (images[:, 0].mean((1, 2)) * data.info.std[0] + data.info.mean[0]) * 255
    assert red.round().long().tolist() == list(range(20))
    assert labels.tolist() == [i % 10 for i in range(20)]
    assert data.info.labels == cifar.LABELS[name]
    assert next(data.train.shuffled(4, Epoch(0, 0)))[0].shape == (4, 3, 32, 32)


def test_the_python_form_is_read(python_folder: str, tmp_path: Path) -> None:
    _assert_numbers(python_folder, tmp_path)
    _assert_numbers(python_folder, tmp_path / FOLDERS[python_folder])


def test_a_file_that_is_not_the_published_one_is_never_unpickled(python_folder: str, tmp_path: Path) -> None:
    path = tmp_path / FOLDERS[python_folder] / FILES[python_folder][0]
    path.write_bytes(path.read_bytes() + b".")
    with pytest.raises(DataError, match=r"missing or not the published ones \(MD5\)"):
        _assert_numbers(python_folder, tmp_path)


def test_names_in_a_batch_are_not_imported_even_if_its_sum_is_right(
    python_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FOLDERS[python_folder] / FILES[python_folder][0]
    path.write_bytes(b"cos\nabort\n(tR.")  # os.abort()
    kind = getattr(import_torchvision("torchvision.datasets"), python_folder.upper())
    monkeypatch.setattr(kind, "train_list", [[path.name, hashlib.md5(path.read_bytes()).hexdigest()]])
    with pytest.raises(DataError, match=r"names os\.abort, which is no array"):
        _assert_numbers(python_folder, tmp_path)


def test_batches_written_by_an_old_numpy_are_read() -> None:
    data = pickle.dumps({"data": _pixels(2)}, protocol=2).replace(b"numpy._core.", b"numpy.core.")
    found = cifar._ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    assert (found["data"] == _pixels(2)).all()


@pytest.mark.parametrize(("name", "files"), [("cifar10", 6), ("cifar100", 2)])
def test_the_binary_form_is_read(tmp_path: Path, name: str, files: int) -> None:
    folder = tmp_path / {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}[name]
    folder.mkdir()
    labels = np.arange(20, dtype=np.uint8)[:, None] % 10
    coarse = [] if name == "cifar10" else [np.full_like(labels, 9)]
    records = np.concatenate([*coarse, labels, _pixels(20)], axis=1)
    train, test = cifar._BINARY_FILES[name]
    for file in (*train, *test):
        (folder / file).write_bytes(records.tobytes())
    assert len([*folder.iterdir()]) == files
    _assert_numbers(name, tmp_path)
    (folder / test[0]).write_bytes(records.tobytes()[:-1])
    with pytest.raises(DataError, match="missing or incomplete"):
        jstc.data.check(name, root=tmp_path)


def test_parquet_files_are_read_with_the_names_and_figures_of_cifar(
    make_parquet: Callable[..., Path],
) -> None:
    root = make_parquet(count=20, label=lambda number: number % 10)
    _assert_numbers("cifar10", root)


def test_parquet_files_of_another_set_are_refused(make_parquet: Callable[..., Path]) -> None:
    root = make_parquet(count=20, side=28)
    with pytest.raises(DataError, match=r"have 3 classes at 28x28; expected 10 at 32x32"):
        jstc.data.check("cifar10", root=root)


def test_check_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder with cifar-10-batches-py/ or "):
        jstc.data.check("cifar10", root=tmp_path)


def test_every_class_has_one_name() -> None:
    assert {name: len(set(labels)) for name, labels in cifar.LABELS.items()} == {
        "cifar10": 10,
        "cifar100": 100,
    }
