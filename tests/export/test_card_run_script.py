"""run.py gives the evaluation's answers, with nothing installed but onnxruntime, numpy and Pillow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jstc import data
from jstc.core.preprocessing import Preprocessing
from jstc.core.safe_text import one_line
from jstc.data.in_memory import MemorySplit
from jstc.export import card
from jstc.export.classifier import Normalisation, open_classifier
from jstc.export.preprocess import preprocess_path, write_with_preprocess
from jstc.recipe.schema import InputSettings

# Runs run.py for every image, and refuses to import anything else than what it may use.
BARE = """
import runpy, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"onnxruntime", "numpy", "PIL"}:
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refusing())
script, model, *images = sys.argv[1:]
for image in images:
    sys.argv = [script, image, model] if model else [script, image]
    runpy.run_path(script)
    print("-")
"""
LABELS = ["0", "1", "zwei\n", "\ud83d", "четыре", "\x1b[31m5\u202e", "6", "7", "8", "9"]


def folder(path, facts_of, source, metadata):
    """An export folder with run.py, as the export stage leaves it."""
    files = [{"file": f"export/{source.name}", "precision": "fp32", "bytes": 1}]
    files += [files[0] | {"preprocess": True}] if facts_of.pop("preprocess", False) else []
    facts = card.CardFacts(
        metadata=metadata | {"model": "m", "dataset": "d"}, files=files, images=None, budget="", target={},
        made=[], command="", licence="unknown", **({"batch": None, "fp16": False} | facts_of),
    )  # fmt: skip
    (path / "run.py").write_text(card.run_script(facts), encoding="utf-8")
    return path / "run.py"


def answers(script, images, model=""):
    command = [sys.executable, "-I", "-X", "utf8", "-c", BARE, str(script), str(model), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    blocks = [block.strip("\n").split("\n") for block in done.stdout.split("\n-\n") if block.strip()]
    return [[line.split("%  ", 1) for line in block if "%  " in line] for block in blocks]


def as_printed(number):
    return one_line(LABELS[number])


def first_labels(blocks):
    return [block[0][1] for block in blocks]


def about(side, mean, std, **more):
    to = Preprocessing(side, side, tuple(mean), tuple(std), **more).metadata()
    return {"labels": LABELS} | {key: value for key, value in to.items() if value is not None}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits as files of 32 pixels, and as the evaluation shows them to a network of 16 pixels."""
    loaded = data.load(
        "digits", root=None, settings=InputSettings(image_size=16), seed=0, device=torch.device("cpu")
    )
    test = loaded.test
    assert isinstance(test, MemorySplit)
    at = list(range(0, test.num_images, 30))
    paths = [tmp_path_factory.mktemp("digits") / f"{i}.png" for i in at]
    for path, i in zip(paths, at, strict=True):
        Image.fromarray(test.images[i].permute(1, 2, 0).numpy()).save(path)
    images = torch.cat([batch for batch, _ in test.ordered(128)])[at]
    return paths, images.numpy(), loaded.info


@pytest.mark.parametrize("form", ["plain", "half", "fixed", "pixels"])
def test_the_answers_are_the_evaluations_on_real_digits(onnx_classifier, digits, form):
    paths, images, info = digits
    metadata = about(16, info.mean, info.std)
    strings = card.encode_metadata(metadata)
    fixed = 3 if form == "fixed" else None
    source = onnx_classifier(
        "model.onnx", classes=10, half=form == "half", batch=fixed or "batch", metadata=strings
    )
    model = None
    if form == "pixels":
        model = preprocess_path(source)
        write_with_preprocess(source, model, info.preprocessing)
    facts = {"batch": fixed, "fp16": form == "half", "preprocess": form == "pixels"}
    blocks = answers(folder(source.parent, facts, source, metadata), paths, model or "")
    expected = open_classifier(source).answer(images).classes[:, 0]
    shown = [as_printed(number) for number in expected]
    assert first_labels(blocks) == shown
    assert len(set(shown)) > 2
    assert all(float(share) <= 100 for block in blocks for share, _ in block)


def test_what_is_no_image_is_one_message(onnx_classifier, tmp_path):
    metadata = about(16, (0.5,), (0.5,))
    source = onnx_classifier("m.onnx", classes=10, metadata=card.encode_metadata(metadata))
    script = folder(source.parent, {}, source, metadata)
    (tmp_path / "text.png").write_text("text")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "part.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "numbers.tif")
    for name in ("none.png", "numbers.tif", "text.png", "part.png", "\x1b[2J\u202e.png"):
        command = [sys.executable, str(script), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"cannot open {one_line(str(tmp_path / name))}: ")


def test_photographs_are_cropped_as_in_the_evaluation(onnx_classifier, tmp_path):
    tree, generator = tmp_path / "tree", np.random.default_rng(0)
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tree / place).mkdir(parents=True)
        for number in range(3):
            small = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            small.resize((21 + 9 * number, 40 - 7 * number)).save(tree / place / f"{number}.png")
    settings = InputSettings(image_size=16, workers=0)
    loaded = data.load("imagefolder", root=tree, settings=settings, seed=0, device=torch.device("cpu"))
    info = loaded.info
    assert info.resize_side == 18
    metadata = about(16, info.mean, info.std, resize_side=info.resize_side)
    strings = card.encode_metadata(metadata)
    source = onnx_classifier("model.onnx", classes=10, metadata=strings)
    images = torch.cat([batch for batch, _ in loaded.test.ordered(8)]).numpy()
    expected = open_classifier(source).answer(images).classes[:, 0]
    paths = sorted((tree / "val").rglob("*.png"))
    script = folder(source.parent, {}, source, metadata)
    assert first_labels(answers(script, paths)) == [as_printed(number) for number in expected]


def test_nothing_else_can_be_imported(tmp_path):
    script = tmp_path / "run.py"
    script.write_text("import yaml")
    with pytest.raises(AssertionError, match="refused: yaml"):
        answers(script, ["image.png"])


def test_without_an_image_it_says_how_it_is_used(onnx_classifier):
    source = onnx_classifier("model.onnx")
    script = folder(source.parent, {}, source, about(16, [0.5] * 3, [0.5] * 3))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("python run.py IMAGE... [MODEL.onnx]")


def test_pixels_and_back_are_the_same_pixels():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, 1)
    one, other = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), Normalisation((0.1,) * 3, (1.0,) * 3)
    assert (one.pixels(one.apply(pixels)) == pixels).all()
    assert np.abs(other.instead_of(one, one.apply(pixels)) - other.apply(pixels)).max() < 1e-5
