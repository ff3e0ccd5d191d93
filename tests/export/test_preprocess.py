"""A file with its preprocessing inside answers as the plain one does after the evaluation's transform."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from jstc.core.preprocessing import Preprocessing
from jstc.data.pixels import prepared_pixels
from jstc.errors import StageError
from jstc.export.preprocess import preprocess_path, write_with_preprocess

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
SIZES = [(16, 16), (19, 33), (40, 17), (7, 9), (61, 90)]


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def wrap(source, **options):
    path = preprocess_path(source)
    top_k = options.pop("top_k", 5)
    write_with_preprocess(source, path, preprocessing(**options), top_k=top_k)
    return path


def preprocessing(**options):
    return Preprocessing(**{"height": 16, "width": 16, "mean": MEAN, "std": STD} | options)


def photo(height, width, channels=3):
    """Smooth as photographs are, bytes [height, width, channels]."""
    noise = np.random.default_rng(height).integers(0, 256, (5, 6, channels), dtype=np.uint8)
    bands = [Image.fromarray(noise[..., band]).resize((width, height)) for band in range(channels)]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def probabilities(source, prepared):
    """Of the plain file, for pixels [N, C, H, W] in 0..255 that have the right size."""
    mean, std = (np.array(v, np.float32)[: prepared.shape[1]].reshape(1, -1, 1, 1) * 255 for v in (MEAN, STD))
    opened = session(source)
    images = ((prepared.astype(np.float32) - mean) / std).astype(
        np.float16 if "16" in opened.get_inputs()[0].type else np.float32
    )
    logits = opened.run(None, {"pictures": images})[0].astype(np.float32)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def require_same(path, source, pixels, prepared, *, within):
    classes, shares = session(path).run(["classes", "probabilities"], {"images": pixels})
    expected = probabilities(source, prepared)
    assert (classes[:, 0] == expected.argmax(1)).all()
    assert np.abs(np.take_along_axis(expected, classes, 1) - shares).max() < within
    assert (np.diff(shares, axis=1) <= 0).all()


@pytest.mark.parametrize("resize_side", [None, 18])
@pytest.mark.parametrize("half", [False, True])
def test_images_of_the_right_size_are_taken_as_they_are(onnx_classifier, resize_side, half):
    source = onnx_classifier(half=half)
    path = wrap(source, resize_side=resize_side)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    require_same(path, source, pixels, pixels.transpose(0, 3, 1, 2), within=5e-3 if half else 1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_side", [None, 18])
def test_images_of_any_size_are_resized_to_the_bytes_that_pillow_gives(
    onnx_classifier, resize_side, interpolation
):
    source = onnx_classifier()
    to = {"resize_side": resize_side, "interpolation": interpolation}
    path = wrap(source, **to)
    for height, width in SIZES:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = prepared_pixels(Image.fromarray(pixels), 16, 16, **to)
        require_same(path, source, pixels[None], prepared.transpose(2, 0, 1)[None], within=1e-5)


def test_networks_need_not_be_square(onnx_classifier):
    source = onnx_classifier(shape=(3, 12, 20))
    path = wrap(source, height=12, width=20, resize_side=23)
    pixels = photo(40, 31)
    prepared = prepared_pixels(Image.fromarray(pixels), 12, 20, 23, "bilinear")
    require_same(path, source, pixels[None], prepared.transpose(2, 0, 1)[None], within=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(onnx_classifier, channels):
    source = onnx_classifier(shape=(channels, 16, 16))
    figures = {"mean": [0.5] * channels, "std": [0.25] * channels}
    classes = session(wrap(source, **figures)).run(["classes"], {"images": photo(30, 20, channels)[None]})[0]
    assert classes.shape == (1, 5)


def test_the_graph_says_what_it_takes_and_gives(onnx_classifier):
    source = onnx_classifier(classes=7, features=True, metadata={"labels": "[]", "mine": "kept"})
    model = onnx.load(str(wrap(source, top_k=3)))
    sizes = {
        item.name: [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {
        "images": ["batch", "height", "width", 3],
        "classes": ["batch", 3],
        "probabilities": ["batch", 3],
    }
    assert {item.key: item.value for item in model.metadata_props} == {"labels": "[]", "mine": "kept"}
    assert "features" not in {name for node in model.graph.node for name in node.output}
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred, full_check=True)


def test_a_fixed_batch_stays_fixed(onnx_classifier):
    source = onnx_classifier(batch=4)
    opened = session(wrap(source))
    assert opened.get_inputs()[0].shape[0] == 4
    pixels = np.stack([photo(24, 20)] * 4)
    classes, shares = opened.run(None, {"images": pixels})
    assert classes.shape == shares.shape == (4, 5)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        opened.run(None, {"images": pixels[:3]})


def test_quantised_files_too(onnx_classifier):
    from jstc.export.precisions import converted
    from jstc.recipe.schema import ExportSettings

    source = onnx_classifier()
    images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = converted(onnx.load(str(source)), "int8", settings=ExportSettings(), images=lambda: images)
    quantised = source.with_name("net.int8.onnx")
    onnx.save(model, str(quantised))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    require_same(wrap(quantised), quantised, pixels, pixels.transpose(0, 3, 1, 2), within=1e-3)
    assert wrap(quantised).name == "net.int8.preprocess.onnx"


@pytest.mark.parametrize(
    ("options", "figures", "says"),
    [
        ({"opset": 17}, {}, "has opset 17; preprocessing in the graph needs 18"),
        ({}, {"mean": (0.5,), "std": (0.5,)}, "takes 3 channels, mean and std have 1"),
        ({"classes": "any"}, {}, "does not say how many channels and classes"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(onnx_classifier, options, figures, says):
    named = options.pop("classes", None)
    source = onnx_classifier(**options)
    if named:
        model = onnx.load(str(source))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = named
        onnx.save(model, str(source))
    with pytest.raises(StageError, match=says):
        wrap(source, **figures)
    assert [path.name for path in source.parent.iterdir()] == ["net.onnx"]
