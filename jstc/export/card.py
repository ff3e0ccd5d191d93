"""Words beside the numbers: metadata inside an exported file; model card, labels and script next to it.

No torch here.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import onnx
import yaml
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from jstc.core import files, numbers
from jstc.core.accuracy import Accuracy
from jstc.core.safe_text import UNSAFE, one_line, visible
from jstc.data.pixels import as_colours, eight_bits, is_transparent, prepared_pixels
from jstc.errors import InputError

__all__ = [
    "CardFacts",
    "decode_metadata",
    "encode_metadata",
    "labels_text",
    "licence_fields",
    "licence_remark",
    "model_card",
    "read_metadata",
    "run_script",
]

# Metadata: whatever is not in this list is plain text, also when it looks like a number.
_JSON_KEYS = frozenset(
    "labels input_size mean std resize_side background flops params accuracy sizes".split()  # noqa: SIM905
)


def encode_metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as the strings that ONNX stores; keys whose value is None are left out.

    Keys of an exported network: `labels` (names, in the order of the logits), `input_size` [C, H, W], `mean`
    and `std` per input channel, `flops` and `params` by fvcore, `accuracy` (a fraction, test split),
    `plan_hash`, `model`, `dataset`, `jstc_version`. Of any other network: `sizes`, what the dynamic ones were
    in the example that it was exported with, by name.
    """
    known = {key: value for key, value in values.items() if value is not None}
    return {key: json.dumps(value) if key in _JSON_KEYS else str(value) for key, value in known.items()}


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file, decoded; empty for a file that carries none.

    Raises `InputError` when the file is missing or is not ONNX.
    """
    try:
        files.require_regular(path)
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except DecodeError:
        raise InputError(f"{path} is not an ONNX file") from None
    if not model.HasField("graph"):
        raise InputError(f"{path} is not an ONNX file")
    return decode_metadata({item.key: item.value for item in model.metadata_props})


def decode_metadata(strings: Mapping[str, str]) -> dict[str, Any]:
    """The values of metadata as ONNX stores them; another tool's stay text."""
    return {key: _decode(key, value) for key, value in strings.items()}


def _decode(key: str, text: str) -> Any:
    if key not in _JSON_KEYS:
        return text
    try:
        return files.parse_json(text, where=key)
    except ValueError:  # another tool's metadata, in its own form
        return text


# The licence, as a model card states it.

UNKNOWN = "unknown"
# Identifiers that the Hugging Face Hub knows; any other licence is "other" there, with its name beside it.
_KNOWN = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc",
    "lgpl", "lgpl-2.1", "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
    "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib",
    "unknown",
}  # fmt: skip


def licence_fields(licence: str) -> dict[str, str]:
    """The fields of the card's front matter."""
    if licence.lower() in _KNOWN:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def licence_remark(licence: str) -> str:
    """One sentence on what may be done with the files."""
    if licence.lower() == UNKNOWN:
        return (
            "No licence was stated for these files (recipe key export.license): ask who gave them to you. "
            "The licence of the training data applies besides."
        )
    return f"Licence of these files: {licence}. The licence of the training data applies besides."


# MODEL_CARD.md, labels.txt and run.py.

_MAX_LABELS = 20
# Under these names the Hugging Face Hub knows the data sets.
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}


@dataclass(frozen=True)
class CardFacts:
    """All that a model card tells. What was not measured is None, and the card says so.

    `metadata` is what the files carry, decoded; `files` are the entries of the export's result.json; `images`
    counts the test split; `target` has flops and params of the uncut network and its accuracies, trained
    alone and (`accuracy_before`) as it was given; `batch` is the files' fixed batch size; `fp16`: does one of
    them take float16? `made` are lines on how, `warnings` sentences on figures that are in doubt.
    """

    metadata: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]
    images: int | None
    budget: str
    target: Mapping[str, float | None]
    batch: int | None
    fp16: bool
    made: Sequence[str]
    command: str
    licence: str
    warnings: Sequence[str] = ()


def labels_text(labels: Sequence[str]) -> str:
    """One label a line, in the order of the logits; what would break a line is written as an escape."""
    return "".join(f"{one_line(label)}\n" for label in labels)


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
    return visible(text)


_FUNCTIONS = (as_colours, is_transparent, eight_bits, prepared_pixels)


def _background(metadata: Mapping[str, Any]) -> tuple[int, ...] | None:
    found = metadata.get("background")
    return None if found is None else tuple(found)


def _shared(facts: CardFacts) -> dict[str, Any]:
    """What both templates need to know."""
    channels, height, width = facts.metadata["input_size"]
    return {
        "metadata": facts.metadata,
        "unsafe": UNSAFE,
        "channels": channels,
        "height": height,
        "width": width,
        "resize_side": facts.metadata.get("resize_side"),
        "functions": "\n\n".join(inspect.getsource(each) for each in _FUNCTIONS),
        "background": _background(facts.metadata),
        "batch": facts.batch,
        "fp16": facts.fp16,
        "preprocess": any(entry.get("preprocess") for entry in facts.files),
        "default_file": _file_name(facts.files[0]["file"]),
    }


def _front_matter(facts: CardFacts, name: str) -> dict[str, Any]:
    dataset = facts.metadata["dataset"]
    hub = _HUB.get(dataset, dataset.removeprefix("hf:").partition(":")[0])
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
    side, by = metadata.get("resize_side"), metadata.get("interpolation", "bilinear")
    how = f"stretch it to {height} x {width} pixels (height x width; {by}, antialiased)"
    if side:
        how = (
            f"resize it so that its shorter side has {side} pixels ({by}, antialiased), and cut "
            f"{height} x {width} out of the middle"
        )
    ground = _background(metadata)
    if ground is not None:
        colours = f"lay it on the colour {', '.join(map(str, ground))} where it is transparent, {colours}"
    return (
        f"{colours}; unless it has {height} x {width} pixels already, {how}, across first and then down, "
        "each time rounded to bytes. A rotation in EXIF data is not carried out."
    )


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
    figures = {
        "share": _measured(numbers.percent),
        "difference": _measured(numbers.tiny),
        "scored": _scored,
        "count": _measured("{:,.0f}".format),
        "numbers": _numbers,
    }
    texts = {"cell": _cell, "code": _code, "file_name": _file_name, "line": one_line}
    environment.filters.update(figures | texts)
    return environment


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


def _scored(value: float | None, images: int | None) -> str:
    """An accuracy with its sampling error, as far as the number of images is known."""
    return "not measured" if value is None else Accuracy(value, images).text


def _measured(shown: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "not measured" if value is None else shown(value)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
