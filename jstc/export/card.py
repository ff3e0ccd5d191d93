"""The texts beside the files of an export: MODEL_CARD.md, labels.txt and run.py. No torch here."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import jinja2
import yaml

from jstc.export.licences import licence_fields, licence_remark

__all__ = ["CardFacts", "labels_text", "model_card", "run_script"]

_MAX_LABELS = 20
# What lines are split at, and what no file can hold: control characters, separators, halves of characters.
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")
# Under these names the Hugging Face Hub knows the data sets.
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}


@dataclass(frozen=True)
class CardFacts:
    """All that a model card tells. What was not measured is None, and the card says so.

    `metadata` is what the files carry, decoded; `files` are the entries of the export's result.json; `images`
    counts the test split; `target` has flops and params of the uncut network and its accuracy, trained alone;
    `batch` is the files' fixed batch size; `half`: does one of them take float16? `made` are lines on how.
    """

    metadata: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]
    images: int | None
    budget: str
    target: Mapping[str, float | None]
    batch: int | None
    half: bool
    made: Sequence[str]
    command: str
    licence: str


def labels_text(labels: Sequence[str]) -> str:
    """One label a line, in the order of the logits; what would break a line is written as an escape."""
    return "".join(f"{_safe(label)}\n" for label in labels)


def run_script(facts: CardFacts) -> str:
    """A program that classifies an image with onnxruntime, numpy and Pillow, as the evaluation does."""
    return _environment().get_template("run.py.j2").render(_shared(facts))


def model_card(facts: CardFacts) -> str:
    """The model card in the form of the Hugging Face Hub: YAML, then Markdown."""
    name = f"{facts.metadata['model']} for {facts.metadata['dataset']}"
    text = (
        _environment()
        .get_template("MODEL_CARD.md.j2")
        .render(
            _shared(facts),
            facts=facts,
            title=name,
            front=yaml.safe_dump(_front_matter(facts, name), sort_keys=False, allow_unicode=True, width=1000),
            preparation=_preparation(facts.metadata),
            script=run_script(facts),
            remark=licence_remark(facts.licence),
            max_labels=_MAX_LABELS,
            providers=sorted(
                {entry["accuracy_provider"] for entry in facts.files if "accuracy_provider" in entry}
            ),
        )
    )
    return _safe(text, but="\n")


def _shared(facts: CardFacts) -> dict[str, Any]:
    """What both templates need to know."""
    channels, height, width = facts.metadata["input_size"]
    return {
        "metadata": facts.metadata,
        "channels": channels,
        "height": height,
        "width": width,
        "resize_side": facts.metadata.get("resize_side"),
        "batch": facts.batch,
        "half": facts.half,
        "preprocess": any(entry.get("preprocess") for entry in facts.files),
        "default_file": _file_name(facts.files[0]["file"]),
    }


def _front_matter(facts: CardFacts, name: str) -> dict[str, Any]:
    dataset = facts.metadata["dataset"]
    hub = _HUB.get(dataset, dataset)
    found = [_result(entry, facts.images) for entry in facts.files if entry.get("accuracy") is not None]
    document: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        **licence_fields(facts.licence),
        "datasets": [hub],
        "metrics": ["accuracy"],
        "tags": ["onnx", "onnxruntime", "pruning", "jstc"],
    }
    if found:
        task = {"type": "image-classification", "name": "Image classification"}
        data = {"type": hub, "name": dataset, "split": "test"}
        document["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": data, "metrics": found}]}
        ]
    return document


def _result(entry: Mapping[str, Any], images: int | None) -> dict[str, Any]:
    what = f"Top-1 accuracy of {_file_name(entry['file'])}"
    counted = "" if images is None else f", {images:,} images"
    return {"type": "accuracy", "name": what + counted, "value": entry["accuracy"]}


def _preparation(metadata: Mapping[str, Any]) -> str:
    channels, height, width = metadata["input_size"]
    colours = {1: "convert the image to grey", 3: "convert the image to RGB"}.get(channels, "take the image")
    side = metadata.get("resize_side")
    if side:
        return (
            f"{colours}, resize it so that its shorter side has {side} pixels (bilinear, antialiased), and "
            f"cut {height} x {width} out of the middle."
        )
    return f"{colours} and stretch it to {height} x {width} pixels (height x width; bilinear, antialiased)."


@functools.cache
def _environment() -> jinja2.Environment:
    # Python and Markdown, not HTML: what could break a table is escaped by `cell`, where it stands.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstc.export"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    figures = {"share": _share, "difference": _difference, "count": _count, "numbers": _numbers}
    environment.filters.update(figures | {"cell": _cell, "code": _code, "file_name": _file_name})
    return environment


def _safe(text: str, *, but: str = "") -> str:
    return "".join(_escaped(char) if char not in but else char for char in text)


def _escaped(char: str) -> str:
    unsafe = unicodedata.category(char) in _UNSAFE
    return char.encode("unicode_escape").decode("ascii") if unsafe else char


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    for special in ("\\", "`", "*", "_", "[", "]", "|", "#"):
        text = text.replace(special, f"\\{special}")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _code(value: object) -> str:
    """Text between backticks, which may stand in a table."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")


def _file_name(file: str) -> str:
    return PurePosixPath(file).name


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2%}".replace("%", " %")


def _difference(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1e}"


def _count(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.0f}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
