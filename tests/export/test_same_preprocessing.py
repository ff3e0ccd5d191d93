"""Evaluation, run.py, the file with preprocessing inside and `jstc eval` see the same image in a raw file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jstc import data
from jstc.core.preprocessing import Preprocessing
from jstc.export import card
from jstc.export.classifier import open_classifier
from jstc.export.preprocess import preprocess_path, write_with_preprocess
from jstc.recipe.schema import InputSettings
from jstc.runs import evaluation
from tests.export.test_card_run_script import LABELS, answers, as_printed, first_labels, folder
from tests.helpers.raw_images import raw_images

SIDE = 16
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
CROPPED, STRETCHED = {"resize_side": 19}, {"resize_side": None}


def by_torchvision(path, to):
    """Normalised, [1, 3, H, W], by the field's own transforms; None where these are known to differ."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    if path.stem.endswith(("tall", "sixteen")):  # the order of the two passes; what Pillow makes of 16 bits
        return None
    size = (to.height, to.width)
    with Image.open(path) as stored:
        image, clear = stored.convert("RGB"), stored.convert("RGBA")
    if to.background is not None:
        image = Image.new("RGB", image.size, to.background)
        image.paste(clear, mask=clear.getchannel("A"))
    mode = v2.InterpolationMode(to.interpolation)
    resize = v2.Resize(to.resize_side or size, interpolation=mode)
    steps = [] if image.size == size[::-1] else [resize, v2.CenterCrop(size)]
    pixels = v2.Compose([*steps, v2.PILToTensor()])(image).numpy().astype(np.float32)
    mean, std = (np.array(figures, np.float32).reshape(3, 1, 1) * 255 for figures in (to.mean, to.std))
    return ((pixels - mean) / std)[None]


def save(folder, raw):
    folder.mkdir(parents=True, exist_ok=True)
    name, image, options = raw
    image.save(folder / name, **options)
    return folder / name


def tree(root, labels, *, each):
    """An image tree in which every raw file has the label that run.py has given it."""
    for raw, label in zip(raw_images(SIDE, each=each), labels, strict=True):
        for split in ("train", "val"):
            save(root / split / f"class{label}", raw)
    for split in ("train", "val"):
        for label in range(len(LABELS)):
            save(root / split / f"class{label}", ("z.png", Image.new("RGB", (SIDE, SIDE)), {}))
    return root


@pytest.mark.parametrize(
    ("form", "interpolation", "background"),
    [
        (CROPPED, "bilinear", None),
        (CROPPED, "bicubic", (255, 255, 255)),
        (STRETCHED, "bilinear", (0, 100, 200)),
        (STRETCHED, "bicubic", None),
    ],
)
def test_raw_files_get_the_same_answers_everywhere(
    onnx_classifier, tmp_path, form, interpolation, background
):
    to = Preprocessing(SIDE, SIDE, MEAN, STD, interpolation=interpolation, background=background, **form)
    require_same_answers(onnx_classifier, tmp_path, to, each=2)


@pytest.mark.slow
def test_six_hundred_raw_files_get_the_same_answers_everywhere(onnx_classifier, tmp_path):
    require_same_answers(onnx_classifier, tmp_path, Preprocessing(SIDE, SIDE, MEAN, STD, **CROPPED), each=50)


def require_same_answers(onnx_classifier, tmp_path, to, *, each):
    """Of `each` files of every kind, in run.py, torchvision's way, `jstc eval` and the evaluation."""
    metadata = {"labels": LABELS} | to.metadata()
    source = onnx_classifier("model.onnx", classes=10, metadata=card.encode_metadata(metadata))
    whole = preprocess_path(source)
    write_with_preprocess(source, whole, to)
    paths = [save(tmp_path / "raw", raw) for raw in raw_images(SIDE, each=each)]

    script = folder(source.parent, {"preprocess": True}, source, metadata)
    plain, inside = (first_labels(answers(script, paths, model)) for model in ("", whole))
    assert plain == inside
    assert len(set(plain)) > 3

    opened = open_classifier(source)
    for path, label in zip(paths, plain, strict=True):
        prepared = by_torchvision(path, to)
        if prepared is not None:
            assert as_printed(opened.answer(prepared).classes[0, 0]) == label

    # In a data set whose labels are these answers, each file is right about every image.
    numbers = [next(n for n in range(10) if as_printed(n) == label) for label in plain]
    root, black = tree(tmp_path / "tree", numbers, each=each), len(LABELS)
    for path in (source, whole):
        found = evaluation.evaluate(path, dataset="imagefolder", data=root, provider="cpu", threads=1)
        assert found["images"] == len(paths) + black
        right = round(found["accuracy"] * found["images"])
        assert right == len(paths) + 1  # a black image in each class, of which one is right

    settings = InputSettings(workers=0)
    loaded = data.load(
        "imagefolder", root=root, settings=settings, seed=0, device=torch.device("cpu"), preprocessing=to
    )
    pairs = [(opened.answer(images.numpy()).classes[:, 0], labels.numpy())
             for images, labels in loaded.test.ordered(4)]  # fmt: skip
    assert sum((found == labels).sum() for found, labels in pairs) == len(paths) + 1
