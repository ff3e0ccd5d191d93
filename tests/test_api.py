"""`jstc.search` from Python: what it takes, what is found wrong before training, and what it gives."""

from __future__ import annotations

import pydoc
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import jstc
from jstc.core import files
from jstc.core.progress import Silent
from jstc.data.given import GivenData
from jstc.errors import DataError, InputError, ModelError, RecipeError, RunDirectoryError, StageError
from jstc.recipe import loading
from jstc.runs import commands, kept
from jstc.runs.given import GivenWorkspace, KeptWorkspace, is_trained, own_weights

QUICK = {
    "device": "cpu", "train.precision": "float32", "train.batch_size": 16, "train.lr": 0.02,
    "search.rounds": 2, "search.steps_per_round": 3, "search.importance_images": 16,
    "search.candidates": 8, "search.candidate_images": 16, "search.reconstruction_images": 16,
    "finetune.epochs": 1, "finetune.steps_per_epoch": 3,
    "bench.batch_sizes": [1], "bench.seconds": 0.02, "bench.provider": "cpu", "export.parity_images": 8,
}  # fmt: skip


class Data:
    """Images of a shape and labels, each by a function of its number; class c has a bright corner c."""

    classes = ("up left", "up right", "down left", "down right")

    def __init__(self, count=48, *, shape=lambda _: (3, 8, 8), label=lambda i: i % 4, picture=False):
        self.count, self.shape, self.label, self.picture = count, shape, label, picture

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        channels, height, width = self.shape(index)
        image: Any = 0.2 * torch.rand(channels, height, width, generator=torch.Generator().manual_seed(index))
        row, column = divmod(index % 4, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.8
        if self.picture:
            image = Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())
        return image, self.label(index)


def network(channels=3, classes=4):
    torch.manual_seed(0)
    body = [nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))


@pytest.fixture(scope="module")
def trained():
    model, data = network(), Data()
    images, labels = torch.stack([data[i][0] for i in range(48)]), torch.arange(48) % 4
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def search(model, out, train=None, val=None, **options):
    settings = QUICK | dict(options.pop("settings", {}))
    if not {"flops", "params", "latency", "recipe"} & set(options):
        options["flops"] = 0.5
    return jstc.search(
        model, train or Data(), val or Data(24), out=out, settings=settings, **{"progress": False} | options
    )


class Told(Silent):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)

    @property
    def text(self):
        return "\n".join(self.texts)


# What is found wrong before training.

ODD = {
    "sizes": (Data(shape=lambda i: (3, 8 + i % 2, 8)), r"image 1 is \[3, 9, 8\], the first \[3, 8, 8\]"),
    "channels": (Data(shape=lambda _: (1, 8, 8)), "the network takes 3 channels, the images have 1"),
    "below": (Data(label=lambda i: i % 4 - 1), "train_data: image 0 has the label -1; the network gives 4"),
    "beyond": (Data(label=lambda i: i % 8), "image 4 has the label 4; .* for the classes 0 to 3"),
    "one-hot": (Data(label=lambda i: torch.eye(4)[i % 4]), "a label of 4 values"),
    "nan": (Data(shape=lambda _: (3, 8, 8), label=float), "image 0 has the label 0.0; a class number"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_data_are_refused_before_training(tmp_path, kind):
    data, problem = ODD[kind]
    with pytest.raises(DataError, match=problem):
        search(network(), tmp_path / "r", data, data)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"labels": 4}, DataError, "labels is of type int: give a list of the classes' names"),
        ({"labels": "abcd"}, DataError, "labels is of type str: give a list"),
        ({"labels": ["a", "b"]}, DataError, r"gives 4 scores for an image, and there are 2 classes \(a, b\)"),
        ({"settings": {"channels.ignore": ["9"]}}, InputError, "'9' matches no"),
        ({"settings": {"train.rate": 1}}, RecipeError, r"settings\['train.rate'\]: unknown key train.rate"),
        ({"flops": 0}, RecipeError, "flops=: "),
        ({"recipe": {"search": {"eval_images": 0}}, "flops": 0.5}, RecipeError, "recipe=: search.eval_im"),
        ({"recipe": "quikstart", "flops": 0.5}, RecipeError, "no recipe at quikstart; did you mean"),
        ({"recipe": {}}, RecipeError, "no budget: give flops=0.5"),
        ({"recipe": [1]}, RecipeError, "recipe= is of type list: give a dictionary, a file or its name"),
        ({"flops": [0.5, 0.4], "params": [0.5, 0.4]}, RecipeError, "^flops and params are lists: "),
        ({"weights": "default"}, ModelError, "no weights file at default; weights have names where"),
    ],
)
def test_wrong_arguments(tmp_path, options, error, problem):
    with pytest.raises(error, match=problem):
        search(network(), tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("settings", [3, [("search.rounds", 20)], ["search.rounds"]])
def test_settings_in_another_form(settings, tmp_path):
    with pytest.raises(RecipeError, match=r"settings.*search.rounds.*(20\"\]|such as train.lr=0.05)$"):
        jstc.search(network(), Data(), Data(24), flops=0.5, settings=settings, out=tmp_path / "r")


def test_a_network_that_gives_no_scores(tmp_path):
    with pytest.raises(ModelError, match=r"2 images gave \[2, 4, 6, 6\]; expected class scores"):
        search(nn.Conv2d(3, 4, 3), tmp_path)


def test_a_network_is_tried_before_it_is_trained(tmp_path):
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    model = Noisy(*network())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"two evaluations .* \(rand_like in line \d+ of test_api.py\)"):
        search(model, tmp_path / "r")
    with pytest.raises(ModelError, match="the network is in float64"):
        search(network().double(), tmp_path / "r")
    assert model.training and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not (tmp_path / "r").exists()


def test_a_network_that_fails_is_no_fault_of_the_data(tmp_path):
    with pytest.raises(ModelError, match=r"forward failed for two images of 3x8x8: .*17x4"):
        search(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(17, 4)), tmp_path)


@pytest.mark.parametrize(("model", "words"), [(3, "of type int"), (nn.Linear, "the class Linear")])
def test_what_is_no_network(tmp_path, model, words):
    with pytest.raises(ModelError, match=f"model is {words}: give a network, that is an nn.Module"):
        search(model, tmp_path / "r")


def test_a_network_by_name_needs_names_of_classes(tmp_path):
    data = TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
    with pytest.raises(DataError, match=r"which have no names here; give them: labels="):
        search("resnet20", tmp_path / "r", data, data)


# Settings, from all places.


def test_recipes_of_every_kind_and_their_order():
    arguments = {"model": "m", "dataset": "given", "flops": 0.3}
    by_name = loading.from_python("quickstart", {}, arguments)
    assert (by_name.dataset, by_name.flops) == ("given", 0.3)
    assert by_name.search == loading.load(Path("quickstart")).search
    for recipe in (
        {"flops": 0.5, "seed": 3, "search": {"rounds": 7}},
        by_name.model_copy(update={"seed": 3}),
    ):
        found = loading.from_python(recipe, ["search.rounds=9", "device=cpu"], arguments)
        assert (found.seed, found.search.rounds, found.device, found.flops) == (3, 9, "cpu", 0.3)
    several = loading.from_python(None, {}, arguments | {"flops": None, "latency": ["2ms", "1ms"]})
    assert several.labels == ("latency2ms", "latency1ms")
    both = loading.from_python(None, {}, arguments | {"flops": [0.5, 0.3], "params": 0.4, "latency": "2ms"})
    assert both.labels == ("flops0.5-params0.4-latency2ms", "flops0.3-params0.4-latency2ms")


def test_a_recipe_object_has_the_defaults_of_given_weights():
    plain = loading.from_python(None, {}, {"model": "m", "dataset": "given", "flops": 0.5})
    found = loading.from_python(plain, {}, {"model": "m", "dataset": "given", "weights": "given-1"})
    assert (plain.search.candidates, found.search.candidates) == (3, 160)
    assert (plain.search.recency_bonus, found.search.recency_bonus) == (12.0, 1.0)


def workspace_of(model, data=None, settings=(), **options):
    arguments = {"model": "m", "dataset": "given", "flops": 0.5}
    recipe = loading.from_python(None, QUICK | dict(settings), arguments)
    return GivenWorkspace(recipe, model, GivenData.of(data or Data(), data or Data()), **options)


def test_what_is_to_be_ignored_stays_whole():
    channels = workspace_of(network(), settings={"channels.ignore": ["0"]}).channels
    assert [group.name for group in channels.groups] == ["3"]
    assert "ignored by the pattern '0'" in {frozen.reason for frozen in channels.frozen}


def test_names_of_classes():
    assert workspace_of(network()).info.labels == Data.classes
    assert workspace_of(network(), labels=list("abcd")).info.labels == tuple("abcd")
    data = TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
    assert workspace_of(network(), data).info.labels == tuple("0123")


def test_pictures_are_prepared_for_the_network_s_channels():
    pictures = Data(picture=True)
    settings = {"input.mean": (0.5,), "input.std": (0.5,)}
    workspace = workspace_of(network(), pictures, settings)
    [(images, _)] = workspace.dataset.test.ordered(48)
    assert torch.allclose(images[5], torch.from_numpy(_bytes(pictures[5][0])) / 255 * 2 - 1, atol=1e-6)
    assert workspace.info.mean == (0.5,) * 3
    grey = [(image.convert("L"), label) for image, label in (pictures[i] for i in range(48))]
    assert workspace_of(network(1), grey).info.input_shape == (1, 8, 8)
    assert workspace_of(network(3), grey).info.input_shape == (3, 8, 8)


def _bytes(picture):
    import numpy as np

    return np.asarray(picture).transpose(2, 0, 1).copy()


# Is the network trained? And whose weights are these?


def test_a_network_above_chance_is_trained(trained, tmp_path):
    for model, expected, words in (
        (trained, True, "is trained already, 100.00 %"),
        (network(), False, "taken for untrained: "),
    ):
        told = Told()
        assert is_trained(workspace_of(model), tmp_path, fresh=False, say=told.message) == expected
        assert words in told.text


def test_weights_have_a_name_by_what_they_are(trained):
    assert own_weights(trained) == own_weights(trained) != own_weights(network())
    assert own_weights(trained).startswith("given-")


# Whole searches.


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    told = Told()
    result = search(trained, tmp_path_factory.mktemp("api") / "r", progress=told)
    return result, told


def test_the_given_network_is_scored_first(found, trained):
    result, told = found
    assert result.given_accuracy == 1.0
    assert "given network: 100.00 %" in told.text
    assert "from the weights that it came with" in told.text
    assert "val_data serves for the search and for the reported accuracy" in told.text
    recipe = loading.load(result.path / "recipe.yaml")
    assert str(recipe.weights) == own_weights(trained)
    assert (recipe.search.recency_bonus, recipe.search.sigma) == (1.0, (1.0, 0.25))
    assert len((result.path / "search" / "candidates.jsonl").read_text().splitlines()) == 8


def test_the_result_is_short_and_escaped_in_words_and_as_a_table(found):
    result, _ = found
    assert repr(result).startswith("SearchResult(") and len(repr(result)) < 200
    assert f"accuracy {100 * result.accuracy:.2f} %" in repr(result)
    page = result._repr_html_()
    assert "<script" not in page
    assert "<td>100.00 % ±" in page and "points" in page and "on 24 images" in page
    odd = type(result)(**{**vars(result), "path": Path("<b>x")})
    assert "<b>" not in odd._repr_html_() and "&lt;b&gt;x" in odd._repr_html_()


def test_what_is_exported_is_verified_and_copied(found, tmp_path):
    result, _ = found
    [path] = result.export(tmp_path / "deploy")
    assert path == tmp_path / "deploy" / "model.onnx"
    assert {p.name for p in path.parent.iterdir()} == {"model.onnx", "MODEL_CARD.md", "labels.txt", "run.py"}
    assert (path.parent / "labels.txt").read_text().split("\n")[0] == "up left"
    assert result.export() == [result.path / "export" / "model.onnx"]
    with pytest.raises(RecipeError, match=r"export.precisions="):
        result.export(precisions=["fp8"])
    assert path.is_file()


def test_the_report_is_a_page_at_every_point(found):
    result, _ = found
    report = result.report()
    assert report.path == result.path / "report.html"
    assert "<iframe sandbox srcdoc=" in report._repr_html_()
    rows = result.bench()
    assert {row["file"] for row in rows} >= {"bench/target.onnx"}
    assert Path(result.report()).stat().st_size > 1000


def test_the_same_call_continues_and_other_weights_are_another_run(found, trained):
    result, _ = found
    again = search(trained, result.path)
    assert again.accuracy == result.accuracy
    with torch.no_grad():
        other = network()
        other.load_state_dict(trained.state_dict())
        other[0].weight.add_(1)
    with pytest.raises(RunDirectoryError, match="belongs to a run with other settings") as raised:
        search(other, result.path, trained=True)
    assert "fresh=True" in str(raised.value) and "jstc finetune" not in str(raised.value)


@pytest.fixture
def no_graphs(monkeypatch):
    """Nothing is kept for the command line: writing graphs takes longest."""
    monkeypatch.setattr(GivenWorkspace, "keep", lambda *_: None)


@pytest.mark.usefixtures("no_graphs")
def test_several_budgets_give_a_result_each(trained, tmp_path):
    results = search(trained, tmp_path / "r", flops=[0.8, 0.5], trained=True)
    assert list(results) == ["flops0.8", "flops0.5"]
    assert results["flops0.5"].flops < results["flops0.8"].flops
    assert results["flops0.5"].path == tmp_path / "r" / "flops0.5"
    assert repr(results).count("SearchResult(") == 2
    assert results._repr_html_().count("<tr>") == 4
    assert results["flops0.5"].export() == [tmp_path / "r" / "flops0.5" / "export" / "model.onnx"]
    assert "flops0.8" in results.report()._repr_html_()


@pytest.mark.usefixtures("no_graphs")
def test_an_interrupted_search_goes_on(tmp_path):
    class Stops(Silent):
        def update(self, done, **figures):
            if "flops" in figures and done == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"what was finished is saved. Continue with:\n  jstc.search"):
        search(network(), tmp_path / "r", progress=Stops())
    told = Told()
    search(network(), tmp_path / "r", progress=told)
    assert "taken for untrained" not in told.text  # the run knows


def test_progress_is_shown_unless_it_is_switched_off(found, trained, capsys):
    search(trained, found[0].path, progress=True)
    assert "val_data serves for the search" in capsys.readouterr().err
    search(trained, found[0].path, progress=False)
    assert capsys.readouterr() == ("", "")


def test_help_tells_of_every_argument():
    text = pydoc.plain(pydoc.render_doc(jstc.search))
    for name in jstc.search.__code__.co_varnames[
        : jstc.search.__code__.co_argcount + jstc.search.__code__.co_kwonlyargcount
    ]:
        assert f"{name}:" in text or f"{name}, " in text
    for word in ("InputError", "SearchResult", "multiply-add", "Ctrl-C"):
        assert word in text


# On the command line, which has neither network nor data.


def on_the_command_line(path, stage, **changes):
    recipe = loading.load(path / "recipe.yaml", [f"{key}={value}" for key, value in changes.items()])
    told = Told()
    commands.run_stage(path, stage, recipe=recipe, progress=told)
    return told


def test_the_command_line_goes_on_from_what_is_kept(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("jstc.runs.kept._MOST_IMAGES", 16)  # of 24
    result = search(
        trained, tmp_path / "r", val=Data(24, picture=True), train=Data(picture=True), trained=True
    )
    told = on_the_command_line(result.path, "bench", **{"bench.seconds": 0.02})
    assert "accuracies here are on 16 of 24 test images" in told.text
    [entry] = files.read_json(result.path / "export" / "result.json")["files"]
    assert entry["test_images"] == 16 and entry["accuracy"] == entry["torch_accuracy"]
    assert entry["max_abs_diff"] < 1e-4
    here = result.export(precisions=["fp32"])[0]
    assert onnx.load(here).graph == onnx.load(result.path / "slim" / "network.onnx").graph
    assert files.read_json(result.path / "bench" / "bench.json")["rows"]
    with pytest.raises(InputError, match=r"export.opset: .* is kept with export.opset=18 only"):
        on_the_command_line(result.path, "export", **{"export.opset": 19})
    assert here.is_file()


def test_what_is_kept_answers_as_the_network_does(found):
    result, _ = found
    workspace = KeptWorkspace(loading.load(result.path / "recipe.yaml"))
    workspace.belongs_to(result.path)
    [(images, _)] = workspace.dataset.test.ordered(24)
    given = Data(24)
    assert torch.equal(images, torch.stack([given[i][0] for i in range(24)]))
    assert torch.allclose(result.network(images), workspace.kept.scores(24), atol=1e-5)
    assert workspace.kept.accuracy == result.accuracy
    assert workspace.info.labels == Data.classes


def test_pixels_are_kept_as_bytes_and_come_back_to_the_last_bit(trained):
    pictures = Data(24, picture=True)
    dataset = workspace_of(trained, pictures).dataset
    images, labels = kept._sample(dataset.test, dataset.info)
    assert (images.dtype, labels.tolist()) == (torch.uint8, [i % 4 for i in range(24)])
    [(wanted, _)] = dataset.test.ordered(24)
    assert torch.equal(kept._prepared(images, dataset.info), wanted)


def test_what_the_command_line_cannot_do_is_said(found, tmp_path):
    result, _ = found
    with pytest.raises(
        RunDirectoryError, match=r"finetune needs the network and the data .* given from Python"
    ):
        on_the_command_line(result.path, "finetune")
    with pytest.raises(DataError, match="dataset 'given' stands for data that were given from Python"):
        commands.run(loading.load(result.path / "recipe.yaml"), out=result.path)
    broken = tmp_path / "r"
    shutil.copytree(result.path, broken)
    manifest = files.read_json(broken / "manifest.json")
    manifest["stages"]["slim"]["state"] = manifest["stages"]["export"]["state"] = "pending"
    files.write_json(broken / "manifest.json", manifest)
    with pytest.raises(
        RunDirectoryError, match=r"slim of .* is not done, .* make the same call of jstc.search"
    ):
        on_the_command_line(broken, "export")
    damaged = tmp_path / "damaged"
    shutil.copytree(result.path, damaged)
    files.write_json(damaged / "slim" / "kept.json", {})
    with pytest.raises(RunDirectoryError, match=r"kept.json .* changed: make the same call of jstc.search"):
        on_the_command_line(damaged, "export")


def test_a_network_that_onnx_cannot_hold_is_searched_all_the_same(found, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise StageError("no such operator")

    monkeypatch.setattr("jstc.runs.kept.write_onnx", refuse)
    told = Told()
    result = search(network(), tmp_path / "r", progress=told, trained=False)
    assert "the command line will not be able to export this run: no such operator" in told.text
    assert result.given_accuracy is None and "untrained" in result._repr_html_()
    with pytest.raises(RunDirectoryError, match="keeps neither the network nor the data"):
        on_the_command_line(result.path, "export")


class Watched(nn.Module):
    """A network that keeps what its forward has made, as for pictures of its features."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.features = network()[:3], network()[3:], None

    def forward(self, x):
        self.features = [self.body(x)]
        return self.head(self.features[0])


@pytest.mark.parametrize("given", [False, True], ids=["from scratch", "given weights"])
def test_a_network_that_keeps_its_features_goes_all_the_way(given, tmp_path):
    """Torch does not copy what hangs on a graph, and every training step leaves some."""
    model = Watched()
    model(torch.rand(4, 3, 8, 8)).sum().backward()
    settings = {"finetune.ema_decay": 0.9, "finetune.teacher": "target"}
    result = search(model, tmp_path / "run", settings=settings, trained=given)
    result.export(tmp_path / "files")
    assert (tmp_path / "files" / "model.onnx").is_file()
