"""Published weights by name: `default`, or torchvision's name of others, such as `IMAGENET1K_V2`.

torchvision, timm and transformers fetch and read them, each with a cache of its own; what is there needs no
network. Nothing is fetched before `Pretrained.tensors` is called.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jstc.core.torchvision_import import import_torchvision
from jstc.errors import JstcError, ModelError, UnknownNameError
from jstc.models import hugging_face
from jstc.models.catalogue import ModelSpec, source_of, task

__all__ = ["DEFAULT", "Pretrained", "find", "offer"]

DEFAULT = "default"

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Pretrained:
    """Weights that are published for a network, by name; not fetched yet, unless they are `here`.

    `origin` says whose they are, `classes` what they tell apart, where the library names that.
    """

    origin: str
    here: bool
    tensors: Callable[[], dict[str, Tensor]]
    classes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What a network starts from, in words."""
        return f"the weights {self.origin}" if self.origin.startswith("of ") else self.origin

    def other_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """A sentence where as many classes as `labels` have other names there: they are not matched."""
        if len(self.classes) != len(labels):
            return ()
        pairs = list(zip(self.classes, labels, strict=True))
        other = next((i for i, (one, own) in enumerate(pairs) if _plain(one) != _plain(own)), None)
        if other is None:
            return ()
        theirs, ours = pairs[other]
        said = f"weights {self.origin} call class {other} '{theirs}', the data '{ours}'"
        return (f"{said}: class i is taken for class i",)


def find(spec: ModelSpec, name: str) -> Pretrained:
    """The weights of that name for a network.

    Raises `UnknownNameError` where there are none of that name, `ModelError` where there are none at all.
    """
    source = source_of(spec.name)
    if not spec.cifar and task(spec.name) == "classification":
        if source in ("torchvision", "built-in"):  # of large images, what is built in is torchvision's
            return _of_torchvision(spec.name, name)
        if source == "timm":
            _require_default(spec.name, name)
            return _of_timm(spec)
        if source == "hf":
            _require_default(spec.name, name)
            return Pretrained(
                f"of {spec.name}",
                hugging_face.has_weights_here(spec.name),
                lambda: hugging_face.tensors(spec.name),
                hugging_face.class_names(spec.name),
            )
    form = f"'{spec.name}' in its CIFAR form" if spec.cifar else f"'{spec.name}'"
    raise ModelError(f"nobody publishes weights for model {form}: there is no --weights {name}; name a file")


def offer(spec: ModelSpec) -> str | None:
    """What `--weights default` would start from, in words; None where there is nothing."""
    try:
        found = find(spec, DEFAULT)
    except JstcError:
        return None
    return "ImageNet" if source_of(spec.name) in ("torchvision", "built-in") else found.told


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").split())


def _require_default(model: str, name: str) -> None:
    if name != DEFAULT:
        raise UnknownNameError("weights", name, [DEFAULT], f"'{model}' has --weights default alone")


# torchvision: a file in torch.hub's folder.


def _of_torchvision(model: str, name: str) -> Pretrained:
    known = import_torchvision("torchvision.models").get_model_weights(model)
    short = name.removeprefix(f"{known.__name__}.")
    chosen = getattr(known, "DEFAULT", None) if short == DEFAULT else known.__members__.get(short)
    if chosen is None and len(known):
        names = ", ".join(one.name for one in known)
        hint = f"torchvision has {names} for '{model}'; default is {known.DEFAULT.name}; a file: ./{name}"
        raise UnknownNameError("weights", name, list(known.__members__), hint)
    if chosen is None:
        raise ModelError(f"torchvision publishes no weights for model '{model}'; name a file")
    file = _in_hub_folder(chosen.url)
    return Pretrained(
        f"torchvision's {chosen}",
        file.is_file(),
        lambda: _loaded(chosen, file),
        tuple(chosen.meta.get("categories", ())),
    )


def _in_hub_folder(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _loaded(chosen: Any, file: Path) -> dict[str, Tensor]:
    here = file.is_file()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says there what it fetches
            found: dict[str, Tensor] = chosen.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as error:  # of urllib, of torch's hash check, of torch.load
        if here:
            what = f"{file} is damaged ({type(error).__name__})"  # torch's own text is advice on pickles
            raise ModelError(what, "delete it, and it is fetched again") from None
        raise ModelError(
            f"torchvision's {chosen} cannot be fetched ({_short(error)})",
            f"without a network put {chosen.url} into {file.parent} (TORCH_HOME names another place), "
            "or name a file: --weights FILE",
        ) from error
    return found


# timm: its builder loads them, and fits the first layer to the images' channels.


def _of_timm(spec: ModelSpec) -> Pretrained:
    timm, name = importlib.import_module("timm"), spec.name.removeprefix("timm:")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm has no such tag
        config = None
    if config is None or not config.has_weights:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        advice = (
            f"there are some for {', '.join(f'timm:{tag}' for tag in tags[:5])}" if tags else "name a file"
        )
        raise ModelError(f"timm publishes no weights for '{spec.name}'", advice)
    full = ".".join(filter(None, (config.architecture or name.partition(".")[0], config.tag)))

    def tensors() -> dict[str, Tensor]:
        here = _timm_has(config)  # by now perhaps
        if not here and config.hf_hub_id:
            hugging_face.require_reachable(f"timm's {full}")
        return _built(name, full, spec.in_channels, here=here)

    return Pretrained(f"timm's {full}", _timm_has(config), tensors)


def _timm_has(config: Any) -> bool:
    if not config.hf_hub_id:
        return bool(config.url) and _in_hub_folder(config.url).is_file()
    hub = importlib.import_module("huggingface_hub")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    return any(isinstance(hub.try_to_load_from_cache(config.hf_hub_id, name), str) for name in files)


def _built(name: str, full: str, in_channels: int, *, here: bool) -> dict[str, Tensor]:
    """The tensors of the network as timm builds it, whose first layer it fits to the images' channels."""
    timm = importlib.import_module("timm")
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if here:
            stack.enter_context(hugging_face.from_cache())
        try:
            network = timm.create_model(name, pretrained=True, in_chans=in_channels)
        except Exception as error:  # of whichever library it uses to fetch and read them
            raise ModelError(
                f"timm's {full} cannot be loaded: {_short(error)}",
                "without a network name a file, --weights FILE, or a cache that has it, with HF_HOME",
            ) from error
    found: dict[str, Tensor] = network.state_dict()
    return found


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
