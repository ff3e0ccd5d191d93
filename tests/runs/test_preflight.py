"""Everything that can be found wrong before training, and that finding it creates nothing."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple

import pytest

from jstc.core.progress import Silent
from jstc.errors import (
    BudgetError,
    DataError,
    InputError,
    ModelError,
    RecipeError,
    RunDirectoryError,
    UnknownNameError,
)
from jstc.models import Permissions
from jstc.ort import sessions
from jstc.recipe import loading
from jstc.runs import commands, preflight
from jstc.runs.manifest import Manifest
from jstc.runs.workspace import Workspace

Usage = namedtuple("Usage", "total used free")


def check(path, *overrides, **flags):
    given = {"model": "resnet20", "dataset": "digits", "flops": "0.5", "device": "cpu", **flags}
    recipe = loading.from_flags(given, overrides)
    preflight.check(Workspace(recipe, Permissions(recipe.model)), path)


def test_a_good_recipe_passes_and_creates_nothing(tmp_path):
    check(tmp_path / "runs" / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("jstc.train.metrics.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"tensorboard: the package is missing; .*joint-search-training\[tensorboard\]"
    ):
        check(tmp_path / "r", "tensorboard=true")
    check(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["finetune", "search"])
def test_a_missing_compiler_is_found_before_training(tmp_path, monkeypatch, stage):
    def broken(*_, **__):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr("torch.compile", broken)
    with pytest.raises(
        InputError, match=rf"{stage}\.compile: .*no working C\+\+ compiler.*leave the key out"
    ):
        check(tmp_path / "r", f"{stage}.compile=true")
    check(tmp_path / "r")


@pytest.mark.parametrize("place", ["run", "every budget"])
def test_providers_that_could_not_be_timed_are_found_before_training(tmp_path, monkeypatch, place):
    monkeypatch.setattr(sessions, "cuda_problem", lambda: "there is none")
    flops = "0.5" if place == "run" else "0.7,0.5"
    flags = {"model": "resnet20", "dataset": "digits", "flops": flops, "bench.provider": "cuda"}
    recipe = loading.from_flags(flags)
    with pytest.raises(
        InputError, match=r"bench\.provider: nothing could be timed here \(cuda: there is none"
    ):
        commands.run(recipe, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    for label in recipe.labels:
        folder = tmp_path / "r" if place == "run" else tmp_path / "r" / label
        manifest = Manifest.new("", 0, ["bench"])
        manifest.stages["bench"].state = "done"
        folder.mkdir(parents=True)
        manifest.save(folder)
    preflight.check_bench(recipe, tmp_path / "r")  # timed elsewhere: only the report may be missing
    with pytest.raises(InputError):
        preflight.check_bench(recipe, tmp_path / "r", fresh=True)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"model": "resnet21"}, UnknownNameError, r"unknown model 'resnet21'; did you mean .*'resnet20'"),
        ({"dataset": "digit"}, UnknownNameError, r"unknown dataset 'digit'; did you mean 'digits'\?"),
        ({"dataset": "cifar10"}, DataError, r"dataset 'cifar10' needs a data folder: --data DIR"),
        ({"dataset": "cifar10", "data": "/no/such"}, DataError, r"/no/such does not exist"),
        ({"weights": "/no/such.pt"}, ModelError, r"no weights file at /no/such.pt"),
        ({"flops": "0.0001"}, BudgetError, r"no sub-network meets flops .* the smallest reachable has"),
        ({"flops": "100G"}, BudgetError, r"nothing to do: the target network has"),
        ({"flops": None, "params": "200"}, BudgetError, r"no sub-network meets params 200"),
        (
            {"flops": "0.5,0.0001,0.7"},
            BudgetError,
            r"no sub-network meets flops .* the smallest reachable has",
        ),
        ({"flops": "1,41M"}, BudgetError, r"nothing to do: the target network has"),
        ({"flops": "0.5,20465984"}, BudgetError, r"flops20\.466M and flops0\.5 are the same budget"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(tmp_path, flags, error, message):
    with pytest.raises(error, match=message):
        check(tmp_path / "run", **flags)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_tree(tmp_path):
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError):
        check(tmp_path / "run", dataset="imagefolder", data=tmp_path / "data", model="resnet18")


def test_weights_that_do_not_fit(tmp_path):
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"conv1.weight": zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError):
        check(tmp_path / "run", weights=tmp_path / "w.safetensors")


FILE = """
import sys
import torch
from torch import nn


def make(num_classes=7, colours=3):
    body = [nn.Conv2d(colours, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(8, num_classes))


def fixed():
    return make(7)


def grey(num_classes):
    return make(num_classes, 1)


def half(num_classes):
    return make(num_classes).half()


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)

    def forward(self, x):
        return self.two(self.one(x))


class Branches(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.net = make(num_classes)

    def forward(self, x):
        return self.net(x if x.sum() > 0 else -x)


def branches():
    return Branches()


class Noisy(Branches):
    def forward(self, x):
        return self.net(x + torch.randn_like(x))


class Probable(Branches):
    def forward(self, x):
        return self.net(x).softmax(1)


class OnlyTraining(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem, self.extra, self.head = (nn.Conv2d(3, 8, 3), nn.Embedding(9, 8), nn.Linear(8, num_classes))

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        if self.training:
            x = torch.cat([x, self.extra(torch.zeros(len(x), 1, dtype=torch.long))], 1)
        return self.head(x).mean(1)


def drifting(num_classes):  # the file is read anew for every build
    built = sys.__dict__.setdefault("_networks_built", [])
    built.append(0)
    return make(num_classes) if len(built) % 2 else nn.Sequential(make(num_classes), nn.Dropout())
"""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            "fixed",
            "gives 7 scores for an image, dataset 'digits' has 10 classes; give its last layer 10 outputs, "
            "or let the factory take num_classes",
        ),
        ("branches", "gives 7 scores for an image, dataset 'digits' has 10 classes"),
        ("Maps", "2 images gave [2, 10, 28, 28]; expected class scores [N, classes]"),
        ("half", "the network is in float16 (0.weight, 0.bias, 1.weight and 3 more)"),
        ("Noisy", "two evaluations of the same images differ by"),
        ("drifting", "it is another network each time that it is built: '0.weight' was"),
        ("OnlyTraining", "the smallest sub-network fails in a training step"),
        ("grey", "the forward failed for 2 images of 3x32x32 from 'digits': RuntimeError: Given groups=1"),
    ],
)
def test_a_network_of_the_users_that_is_not_for_these_images(tmp_path, factory, message):
    (tmp_path / "net.py").write_text(FILE)
    with pytest.raises(ModelError, match=re.escape(message)):
        check(tmp_path / "run", model=f"{tmp_path / 'net.py'}:{factory}")
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["net.py"]


@pytest.mark.parametrize("factory", ["make", "Branches"])
def test_a_network_of_the_users_that_takes_the_number_of_classes(tmp_path, factory):
    (tmp_path / "net.py").write_text(FILE)
    check(tmp_path / "run", model=f"{tmp_path / 'net.py'}:{factory}")


def workspace_of(tmp_path, factory, stages):
    (tmp_path / "net.py").write_text(FILE)
    name = f"{tmp_path / 'net.py'}:{factory}"
    recipe = loading.from_flags({"model": name, "dataset": "digits", "flops": "0.5", "device": "cpu"}, [])
    workspace, remarks = Workspace(recipe, Permissions(name)), Remarks()
    workspace.belongs_to(tmp_path / "run", remarks)
    workspace.to_announce = stages
    return workspace, remarks


def test_what_reads_values_must_be_exportable_where_the_command_exports(tmp_path):
    told = (
        r"cannot be exported as it is; the forward reads values of tensors in line \d+ of net.py: torch.onnx"
    )
    workspace, remarks = workspace_of(tmp_path, "Branches", ("search", "export"))
    with pytest.raises(ModelError, match=told):
        preflight.check(workspace, tmp_path / "run")
    workspace, remarks = workspace_of(tmp_path, "Branches", ("search",))
    preflight.check(workspace, tmp_path / "run")
    [said] = remarks.said
    assert re.search(told, said)


class Remarks(Silent):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def test_what_is_only_likely_to_be_a_mistake_is_said(tmp_path):
    workspace, remarks = workspace_of(tmp_path, "Probable", ())
    preflight.check(workspace, tmp_path / "run")
    [said] = remarks.said
    assert said.startswith("warning: the outputs of every image sum to 1: a softmax")


def test_a_network_is_tried_before_its_run_and_not_when_that_goes_on(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    path, name = tmp_path / "run", f"{tmp_path / 'net.py'}:Noisy"
    path.mkdir()
    record = Manifest.new("", 0, ["search"])
    record.save(path)
    with pytest.raises(ModelError, match="two evaluations"):
        check(path, model=name)
    record.stages["search"].state = "running"
    record.save(path)
    check(path, model=name)


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 50 * 10**6))
    with pytest.raises(
        RunDirectoryError, match=r"not enough disk space .* needs about 1\d\d MB, 50 MB are free"
    ):
        check(tmp_path / "run")


def test_a_file_where_the_run_should_be(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunDirectoryError, match="is a file"):
        check(tmp_path / "run" / "deeper")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RunDirectoryError, match="no permission to write"):
        check(tmp_path / "run")


def test_cuda_asked_for_and_absent(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="device 'cuda'"):
        check(tmp_path / "run", device="cuda")


def test_a_network_whose_channels_are_all_ignored(tmp_path):
    with pytest.raises(ModelError, match="has no channels to cut"):
        check(tmp_path / "run", "channels.ignore=['*']")


@pytest.mark.parametrize(
    ("pattern", "way_out"),
    [
        ("layer1.0.conv", r"'layer1.0.conv\d'"),
        ("nothing*", r"'conv1', 'bn1', "),
        ("layer7.*", r"'layer\d', 'layer\d', 'layer\d'$"),
        ("LAYER1.*", r"'layer1'$"),
    ],
)
def test_a_pattern_that_matches_no_module_is_named(tmp_path, pattern, way_out):
    begins = rf"ignore: '{re.escape(pattern)}' matches no module with weights; names there are such as "
    with pytest.raises(InputError, match=begins + way_out):
        check(tmp_path / "run", f"channels.ignore=['layer2.*', '{pattern}']")
    assert list(tmp_path.iterdir()) == []


def test_patterns_that_match_pass(tmp_path):
    check(tmp_path / "run", "channels.ignore=['layer1.0.*', 'layer?.1.conv1']", flops="0.8")


def test_settings_of_an_unknown_group_are_found_before_the_search(tmp_path):
    with pytest.raises(RecipeError, match=r"channels.groups: 'layer9' matches no group .* 'layer\d'"):
        check(tmp_path / "run", "channels.groups.layer9.min_width=4")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_groups_move_the_smallest_budget(tmp_path):
    check(tmp_path / "run", flops="0.2")
    with pytest.raises(BudgetError, match="no sub-network meets flops"):
        check(tmp_path / "run", "channels.groups.layer1.min_share=1", flops="0.2")


def test_a_threshold_of_an_unknown_group_is_found_before_the_search(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown channel group 'wide'.* search.fixed_thresholds"):
        check(tmp_path / "run", "search.thresholds=fixed", "search.fixed_thresholds.wide=0.5")
    assert list(tmp_path.iterdir()) == []


def test_budgets_are_ordered_by_what_they_come_to():
    recipe = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5,0.7,25M"})
    assert recipe.labels == ("flops25M", "flops0.7", "flops0.5")
    budgets = Workspace(recipe).budgets
    assert list(budgets) == ["flops0.7", "flops25M", "flops0.5"]
    limits = [budget.on("flops").limit for budget in budgets.values()]
    assert limits == sorted(limits, reverse=True)
    assert limits[1] == 25_000_000


def test_budgets_beside_another_bound_are_ordered_and_not_the_same():
    flags = {"model": "resnet20", "dataset": "digits", "flops": "0.5,25M", "params": "0.4"}
    recipe = loading.from_flags(flags)
    budgets = Workspace(recipe).budgets
    assert list(budgets) == ["flops25M-params0.4", "flops0.5-params0.4"]
    assert len({budget.on("params").limit for budget in budgets.values()}) == 1
    again = loading.from_flags(flags | {"flops": "0.5,20465984"})
    with pytest.raises(
        BudgetError, match=r"flops20\.466M-params0\.4 and flops0\.5-params0\.4 are the same budget"
    ):
        _ = Workspace(again).budgets


def test_several_budgets_need_more_space(tmp_path, monkeypatch):
    free = 100_000_000 + 20 * 4 * 10**6
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    preflight.check_space(tmp_path, num_params=10**6)
    with pytest.raises(RunDirectoryError, match="a run needs about 260 MB"):
        preflight.check_space(tmp_path, num_params=10**6, num_budgets=2)


def test_one_budget_shares_what_has_been_made():
    recipe = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5,0.7"})
    workspace = Workspace(recipe)
    alone = workspace.at("flops0.5")
    budget = alone.budgets["flops0.5"]
    workspace.take_over(alone)
    assert workspace.channels is alone.channels is workspace.at("flops0.7").channels
    assert workspace.budgets["flops0.5"] == budget
    assert list(workspace.at("flops0.7").budgets) == ["flops0.7"]
