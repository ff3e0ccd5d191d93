from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jstc.models
from jstc.core.torchvision_import import import_torchvision
from jstc.errors import ModelError, UnknownNameError
from jstc.models.catalogue import Task, runs_user_code, torchvision_names

TASKS: list[Task] = ["classification", "segmentation", "detection"]


def test_built_in_networks_come_first_and_no_name_comes_twice() -> None:
    names = [entry.name for entry in jstc.models.names()]
    assert names[:5] == ["resnet20", "resnet32", "resnet56", "resnet110", "vgg16_bn"]
    everything = [name for task in TASKS for name in torchvision_names(task)]
    assert len(names) == len(set(names)) == 4 + len(everything)
    assert all(entry.description for entry in jstc.models.names())


@pytest.mark.parametrize("task", TASKS)
def test_names_read_from_the_source_are_those_that_torchvision_gives(task: Task) -> None:
    models = import_torchvision("torchvision.models")
    package = models if task == "classification" else import_torchvision(f"torchvision.models.{task}")
    assert set(torchvision_names(task)) == set(models.list_models(module=package))


def test_networks_of_other_tasks_are_known_and_are_no_classifiers() -> None:
    for name, task in (("fcn_resnet50", "segmentation"), ("fasterrcnn_resnet50_fpn", "detection")):
        jstc.models.check(name)
        assert jstc.models.task(name) == task
        with pytest.raises(ModelError, match=f"'{name}' is a {task} network, .* 'jstc inspect {name}' shows"):
            jstc.models.require_classifier(name)
        (entry,) = (e for e in jstc.models.names() if e.name == name)
        assert f"{task} network (inspect only" in entry.description


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "timm:resnet50", "mine.py:make"])
def test_all_others_are_taken_for_classifiers(name: str) -> None:
    jstc.models.require_classifier(name)
    assert (jstc.models.task(name), jstc.models.part(name)) == ("classification", None)


def test_of_a_detector_the_backbone_is_analysed() -> None:
    assert jstc.models.part("ssd300_vgg16") == "backbone"
    assert jstc.models.part("fcn_resnet50") is None
    assert [jstc.models.image_side(n) for n in ("ssd300_vgg16", "resnet50")] == [300, 224]


@pytest.mark.parametrize(
    ("name", "near"), [("resnet21", "resnet20"), ("ResNet50", "resnet50"), ("vgg16bn", "vgg16_bn")]
)
def test_near_names_are_suggested(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}'; did you mean .*'{near}'"):
        jstc.models.check(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:", "expected 'timm:NAME'"),
        ("timm:hf-hub:someone/model", "expected 'timm:NAME'"),
        ("nowhere.py:make", "there is no file nowhere.py in"),
        ("module:", "expected 'path/to/file.py:factory'"),
        (":make", "expected 'path/to/file.py:factory'"),
        ("module:make()", "expected 'path/to/file.py:factory'"),
        ("my models:make", "neither a .py file nor the name of a module"),
    ],
)
def test_what_cannot_be_a_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        jstc.models.check(name)


def test_good_names_pass(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.touch()
    for name in ("resnet56", "resnet50", "package.module:make", f"{path}:make"):
        jstc.models.check(name)
    assert [runs_user_code(n) for n in ("resnet20", "timm:x", "a.b:c", "x.py:c")] == [
        False,
        False,
        True,
        True,
    ]


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys, jstc.models\n"
        "for name in ('resnet20', 'resnet50', 'timm.models:resnet18'): jstc.models.check(name)\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
