from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

import jstc.data
from jstc.errors import DataError, UnknownNameError
from jstc.recipe.schema import InputSettings


def test_the_catalogue_lists_every_dataset() -> None:
    entries = {entry.name: entry for entry in jstc.data.catalogue()}
    assert list(entries) == [
        "digits",
        "cifar10",
        "cifar100",
        "imagenet",
        "imagefolder",
        "parquet",
        "webdataset",
        "hf:ORG/NAME",
    ]
    assert [name for name, entry in entries.items() if not entry.needs_root] == ["digits", "hf:ORG/NAME"]
    assert all(entry.description and entry.where for entry in entries.values())


def test_near_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'cifar-10'; did you mean 'cifar10'"):
        jstc.data.check("cifar-10", root=None)


def test_a_data_folder_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"'imagenet' needs a data folder: --data DIR .*train/<class>"):
        jstc.data.check("imagenet", root=None)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; expected"):
        jstc.data.check("cifar10", root=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is not a folder"):
        jstc.data.check("cifar10", root=tmp_path / "file")


@pytest.mark.parametrize("name", ["webdataset", "imagefolder"])
@pytest.mark.parametrize("flavour", [PurePosixPath, PureWindowsPath])
@pytest.mark.parametrize("url", ["https://host/{train,val}.tar", "s3://bucket/set"])
def test_an_address_is_refused_with_what_to_do_instead(name: str, flavour: type[PurePath], url: str) -> None:
    root: Any = flavour(url)
    with pytest.raises(DataError) as refused:
        jstc.data.check(name, root=root)
    text = str(refused.value)
    assert f"{url} is an address on a server" in text and "copy the files first" in text and "wget -c" in text
    assert refused.value.exit_code == 2


def test_a_drive_is_no_address() -> None:
    with pytest.raises(DataError, match=r"C:/nowhere does not exist"):
        jstc.data.check("imagefolder", root=Path("C:/nowhere"))


def test_settings_decide_the_shape() -> None:
    info = jstc.data.check("digits", root=None, settings=InputSettings(image_size=48))
    assert info.input_shape == (3, 48, 48)
    assert info.num_classes == 10


@pytest.mark.parametrize("name", ["digits", "imagefolder", "parquet"])
def test_checking_imports_no_torch(name: str, request: pytest.FixtureRequest) -> None:
    root = "None"
    if name != "digits":
        make = request.getfixturevalue("make_tree" if name == "imagefolder" else "make_parquet")
        root = f"pathlib.Path({str(make())!r})"
    code = (
        "import sys, pathlib, jstc.data\n"
        f"jstc.data.check({name!r}, root={root})\n"
        "assert not {'torch', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
