"""The names of networks, where each comes from, and the spec that builds one again. No torch here."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jstc._version import install_command
from jstc.core import files
from jstc.core.torchvision_import import import_torchvision
from jstc.errors import ModelError, UnknownNameError
from jstc.models import hugging_face, user_names

__all__ = [
    "CIFAR_FORMS",
    "ModelEntry",
    "ModelSpec",
    "Source",
    "Task",
    "check",
    "image_side",
    "names",
    "part",
    "require_classifier",
    "runs_user_code",
    "says_weights",
    "source_of",
    "spec",
    "task",
    "torchvision_names",
    "weights_file",
]

# The names of torchvision's networks, read from its source without importing it.

Task = Literal["classification", "segmentation", "detection"]

_PACKAGES: dict[Task, str] = {
    "classification": "models",
    "segmentation": "models.segmentation",
    "detection": "models.detection",
}


@cache
def torchvision_names(task: Task = "classification") -> tuple[str, ...]:
    """The names that `torchvision.models.list_models` returns for the package of a task.

    Importing torchvision to ask it takes seconds; its sources say the same in a fraction of one. They
    are asked only when that fails.
    """
    try:
        found = _from_source(_PACKAGES[task])
    except (OSError, UnicodeError, ImportError):
        found = set()
    if not found:
        models = import_torchvision("torchvision.models")
        found = set(models.list_models(module=import_torchvision(f"torchvision.{_PACKAGES[task]}")))
    return tuple(sorted(found))


def _from_source(package: str) -> set[str]:
    torchvision = importlib.util.find_spec("torchvision")
    folders = list(torchvision.submodule_search_locations or ()) if torchvision else []
    found: set[str] = set()
    for folder in folders:
        for path in Path(folder, *package.split(".")).glob("*.py"):
            # Not by `ast`: parsing all of them takes 0.2 s, and a test holds the outcome to `list_models`.
            found |= {given or name for given, name in _REGISTERED.findall(path.read_text(encoding="utf-8"))}
    return found


# The decorator, with or without a name of its own, and the function below it, other decorators between.
_REGISTERED = re.compile(
    r"""^@register_model\((?:name=)?["']?([^"')]*)["']?\)\n(?:(?!def ).*\n)*?def (\w+)\(""", re.MULTILINE
)


# All names, and where each comes from.

Source = Literal["built-in", "torchvision", "timm", "hf", "user"]

_BUILT_IN = {
    "resnet20": "CIFAR ResNet-20, 0.27 M parameters (He et al. 2015)",
    "resnet32": "CIFAR ResNet-32, 0.46 M parameters (He et al. 2015)",
    "resnet56": "CIFAR ResNet-56, 0.85 M parameters (He et al. 2015)",
    "resnet110": "CIFAR ResNet-110, 1.7 M parameters (He et al. 2015)",
    "vgg16_bn": "VGG-16 with batch norm, 14.7 M; large images: torchvision's",
}
_TASKS: dict[Task, str] = {
    "classification": "classification network",
    "segmentation": "segmentation network (inspect only)",
    "detection": "detection network (inspect only: its backbone)",
}
_SIDES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
_OTHERS = (
    "Others: 'timm:NAME', 'hf:ORG/NAME', 'path/to/file.py:factory', 'package.module:factory'; 'jstc models' "
    "lists all"
)


@dataclass(frozen=True)
class ModelEntry:
    """One line of `jstc models`."""

    name: str
    source: Source
    description: str


@cache
def names() -> tuple[ModelEntry, ...]:
    """Every network that can be named alone: the built-in ones, then torchvision's, each by name."""
    built_in = [ModelEntry(name, "built-in", text) for name, text in _BUILT_IN.items()]
    others = [
        ModelEntry(name, "torchvision", f"torchvision's {text}")
        for task, text in _TASKS.items()
        for name in torchvision_names(task)
        if name not in _BUILT_IN
    ]
    return (*built_in, *others)


def task(name: str) -> Task:
    """What a network of this name does; everybody's own networks are taken for classifiers."""
    if source_of(name) != "torchvision":
        return "classification"
    return next((task for task in _TASKS if name in torchvision_names(task)), "classification")


def part(name: str) -> str | None:
    """The submodule that alone can be analysed, on images of its own, or None for the whole network.

    A detector picks boxes by their values, which no trace can follow; its backbone comes before that.
    """
    return "backbone" if task(name) == "detection" else None


def image_side(name: str) -> int:
    """Side of the images, in pixels, that a network of this name is looked at with, unless told otherwise."""
    return _SIDES.get(name, 224)


def require_classifier(name: str) -> None:
    """Raise `ModelError` for a network that can be inspected and cut, but not trained on labelled images."""
    found = task(name)
    if found != "classification":
        raise ModelError(
            f"model '{name}' is a {found} network, and data sets here are for classification; "
            f"'jstc inspect {name}' shows what can be cut, and jstc.analyse cuts it in your own training"
        )


def source_of(name: str) -> Source:
    """Where a network of this name would come from, whether it exists or not."""
    if name.startswith("timm:"):
        return "timm"
    if name.startswith("hf:"):
        return "hf"
    if ":" in name:
        return "user"
    return "built-in" if name in _BUILT_IN else "torchvision"


def says_weights(name: str) -> bool:
    """Whether the name stands for weights, too: one of Hugging Face, or one of timm with a tag."""
    source = source_of(name)
    return source == "hf" or (source == "timm" and "." in name)


def runs_user_code(name: str) -> bool:
    """Does building this network run code that is neither ours nor a library's?

    Ask before building from a spec that came from elsewhere.
    """
    return source_of(name) == "user"


def check(name: str) -> None:
    """Raise `UnknownNameError` or `ModelError` when no network can have this name; imports no torch."""
    source = source_of(name)
    if source == "timm":
        _check_timm(name)
    elif source == "hf":
        hugging_face.check(name)
    elif source == "user":
        user_names.check_user_name(name)
    elif source == "torchvision" and not any(name in torchvision_names(task) for task in _TASKS):
        if (error := user_names.misnamed(name)) is not None:
            raise error
        known = [entry.name for entry in names()]
        raise UnknownNameError("model", name, known, _OTHERS)


def _check_timm(name: str) -> None:
    plain = name.removeprefix("timm:")
    if not plain or ":" in plain or "/" in plain:
        raise ModelError(f"model '{name}': expected 'timm:NAME' with a name from timm.list_models()")
    if importlib.util.find_spec("timm") is None:
        raise ModelError(f"model '{name}' needs timm, which is not installed: {install_command('timm')}")


# The spec of a network.

# name -> is there no other form of it?
CIFAR_FORMS = {"resnet20": True, "resnet32": True, "resnet56": True, "resnet110": True, "vgg16_bn": False}
_SMALL = 64  # images of at most this side get the CIFAR form
_VGG_SIDE = 32  # five poolings
_LIMITS = {"num_classes": 1_000_000, "in_channels": 4096, "height": 16384, "width": 16384}
_MOST_VALUES = 2**28  # of one image: 1 GiB


@dataclass(frozen=True)
class ModelSpec:
    """A network by name: enough to build it again, weights aside.

    `height` and `width` are pixels of the images it is for; `cifar` says that it is the CIFAR form; `config`
    is what a network of Hugging Face is built from, and None for all others.
    """

    name: str
    num_classes: int
    in_channels: int
    height: int
    width: int
    cifar: bool
    config: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name:
            raise ModelError("model: the name must be a text that is not empty")
        for key, limit in _LIMITS.items():
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= limit:
                raise ModelError(f"model: {key} is {value!r}; expected a whole number from 1 to {limit}")
        if math.prod(self.input_shape) > _MOST_VALUES:
            size = "x".join(map(str, self.input_shape))
            raise ModelError(
                f"model: an image of {size} is too large; expected at most {_MOST_VALUES} values"
            )
        if type(self.cifar) is not bool:
            raise ModelError(f"model: cifar is {self.cifar!r}; expected true or false")
        if self.config is not None and not (source_of(self.name) == "hf" and isinstance(self.config, dict)):
            raise ModelError("model: config is for networks 'hf:NAME' alone, and a JSON object")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.in_channels, self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        document = asdict(self)
        if self.config is None:
            del document["config"]
        return document

    @classmethod
    def from_dict(cls, document: Any) -> ModelSpec:
        """The inverse of `to_dict`. Raises `ModelError` for anything else: such files get passed around."""
        if not isinstance(document, Mapping):
            raise ModelError(f"model: expected a JSON object, not {type(document).__name__}")
        known = {field.name for field in fields(cls)} - ({"config"} - set(document))
        missing, odd = sorted(known - set(document)), sorted(set(map(str, document)) - known)
        if missing or odd:
            text = [f"missing keys {missing}"] if missing else []
            text += [f"unknown keys {odd}"] if odd else []
            raise ModelError(f"model: {' and '.join(text)}; expected {sorted(known)}")
        return cls(**document)


def spec(
    name: str, *, num_classes: int, in_channels: int, height: int, width: int, cifar: bool = False
) -> ModelSpec:
    """The spec of a network for images of the given shape.

    Names that have a CIFAR form get it with `cifar`, or for images of at most 64 pixels; some have no
    other. That of a network of Hugging Face is looked up. Raises `ModelError` when `cifar` is asked of a
    network without such a form, when the images are too small for it, or when there is no such network.
    """
    if cifar and name not in CIFAR_FORMS:
        forms = ", ".join(CIFAR_FORMS)
        raise ModelError(f"model '{name}' has no CIFAR form; these have: {forms}. Leave 'cifar' out")
    small = max(height, width) <= _SMALL
    form = CIFAR_FORMS.get(name, False) or (name in CIFAR_FORMS and (cifar or small))
    if form and name == "vgg16_bn" and min(height, width) < _VGG_SIDE:
        raise ModelError(
            f"model 'vgg16_bn' needs images of {_VGG_SIDE} pixels or more, not {height}x{width}; "
            f"set input.image_size to {_VGG_SIDE}"
        )
    config = hugging_face.network_config(name) if source_of(name) == "hf" else None
    return ModelSpec(name, num_classes, in_channels, height, width, form, config)


# Files of weights.

_OF_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face's libraries


def weights_file(path: Path) -> tuple[Path, str | None]:
    """The file that a path of weights stands for, and the part of it that is meant, None for all.

    A path may be `FILE#PART`, with the names on the way to the part (`state_dict_ema`), and instead of a file
    the folder that Hugging Face's libraries save a network in. Raises `ModelError` when no file is there, and
    `DamagedError` for what is none.
    """
    file, part = path, None
    if not path.exists() and "#" in path.name:
        name, _, part = path.name.rpartition("#")
        file = path.with_name(name)
    if not file.exists():
        raise ModelError(f"no weights file at {file}")
    if file.is_dir():
        file = _in_folder(file)
    files.require_regular(file)
    return file, part or None


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in _OF_FOLDERS if (folder / name).is_file()), None)
    if found is not None:
        return found
    if any((folder / f"{name}.index.json").is_file() for name in _OF_FOLDERS):
        what, advice = "the parts of one in several files", "save the network in one file (max_shard_size)"
    elif (folder / ".metadata").is_file():
        what = "a distributed checkpoint"
        advice = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes one file of it"
    else:
        likely = sorted(one for one in folder.iterdir() if one.name.endswith(user_names.OF_WEIGHTS))
        what = f"neither {' nor '.join(_OF_FOLDERS)}"
        advice = "name the file itself" + (f", such as {likely[0]}" if likely else "")
    raise ModelError(f"weights {folder}: the folder has {what}; {advice}")
