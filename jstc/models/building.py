"""Networks built from their spec: initialised from a seed, or for their shapes alone. Without downloads."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jstc._version import install_command
from jstc.core.torchvision_import import import_torchvision
from jstc.errors import JstcError, ModelError, UnknownNameError
from jstc.models import cifar_networks, hugging_face, user_code
from jstc.models.catalogue import ModelSpec, check, source_of, task

__all__ = ["ScoresAlone", "ShapesOnly", "build", "timm_constructor", "torchvision_constructor"]


def build(spec: ModelSpec, *, device: str = "cpu", seed: int = 0) -> nn.Module:
    """Build the network, initialised from `seed` alone: torch's global random state is left as it was.

    On device "meta" it takes no memory and is not initialised: shapes only.
    Raises `UnknownNameError` or `ModelError` when it cannot be built.
    """
    if spec.config is None:  # else it need not be looked for
        check(spec.name)
    # Found (and, for a user's own file, run) before any device or random state is set for it.
    constructor = _constructor(spec)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _on_meta(constructor, spec.name) if device == "meta" else _call(constructor, spec.name)
    return model.to(device)


def _constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    source = source_of(spec.name)
    if spec.cifar:
        if spec.name not in cifar_networks.BUILDERS:
            raise ModelError(
                f"model '{spec.name}' has no CIFAR form; these have: {', '.join(cifar_networks.BUILDERS)}"
            )
        create = cifar_networks.BUILDERS[spec.name]
        return partial(create, num_classes=spec.num_classes, in_channels=spec.in_channels)
    if source == "timm":
        return timm_constructor(spec)
    if source == "hf":
        return partial(_hugging_face, spec)
    if source == "user":
        return user_code.constructor(spec)
    return torchvision_constructor(spec)


def _on_meta(constructor: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        # Whoever loads weights in a constructor would be warned that they go nowhere, as they should here.
        with ShapesOnly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return constructor()
    except Exception:
        # Some constructor may read numbers that are not there. And what is wrong with any other will be
        # said by the plain attempt.
        return _call(constructor, name)


def _call(constructor: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return constructor()
    except JstcError:
        raise
    except Exception as error:
        raise ModelError(f"model '{name}' cannot be built: {type(error).__name__}: {error}") from error


# Constructors of the libraries' networks.

# Auxiliary classifiers serve training schemes that are not ours. And without a word on init_weights
# these two warn, and spend a minute on truncated normal numbers.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}


def torchvision_constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network. Raises `ModelError` for images that are not of three channels."""
    if spec.in_channels != 3:
        raise ModelError(
            f"model '{spec.name}' from torchvision reads images of 3 channels, not {spec.in_channels}"
        )
    models = import_torchvision("torchvision.models")
    options = _OPTIONS.get(spec.name, {})
    if task(spec.name) != "classification":
        options = {"weights_backbone": None}  # else they download those of ImageNet
    return partial(models.get_model, spec.name, weights=None, num_classes=spec.num_classes, **options)


def timm_constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network. Raises `ModelError` without timm, `UnknownNameError` for unknown names."""
    timm = _timm(spec.name)
    name = spec.name.removeprefix("timm:")
    if not timm.is_model(name):
        known = [f"timm:{n}" for n in timm.list_models()]
        raise UnknownNameError("model", spec.name, known, "timm.list_models() lists all")
    return partial(
        timm.create_model,
        name,
        pretrained=False,
        num_classes=spec.num_classes,
        in_chans=spec.in_channels,
    )


def _timm(name: str) -> Any:
    import_torchvision()  # timm imports it; ours is the quicker way
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"model '{name}' needs timm ({error}): {install_command('timm')}") from error


class ScoresAlone(nn.Module):
    """A classifier of Hugging Face, of whose output it gives the class scores [N, classes] alone.

    `network` is what the library has built: names in its published weights are of that.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [N, classes] of images [N, C, H, W]."""
        scores: Tensor = self.network(pixel_values=images).logits
        return scores


def _hugging_face(spec: ModelSpec) -> nn.Module:
    if spec.config is None:
        raise ModelError(f"model '{spec.name}' cannot be built without its config")
    return ScoresAlone(
        hugging_face.construct(spec.config, num_classes=spec.num_classes, input_shape=spec.input_shape)
    )


# For the shapes alone.

# What parameters are made of. Not arange, linspace or tensor: constructors read numbers out of those.
_STORAGE = frozenset(("empty", "rand", "randn"))

# In-place operations that initialisers consist of; everything in torch.nn.init is one of them too.
_FILLS = frozenset(
    (
        *("normal_", "uniform_", "fill_", "zero_", "random_", "bernoulli_", "exponential_", "log_normal_"),
        *("erfinv_", "mul_", "div_", "add_", "sub_", "clamp_", "copy_", "constant_", "ones_", "zeros_"),
        *("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
        *("orthogonal_", "eye_", "dirac_", "sparse_"),
    )
)


class ShapesOnly(TorchFunctionMode):
    """While active, uninitialised tensors are made on the meta device, and filling those does nothing.

    Unlike `torch.device("meta")` it lets small tensors be real, because some constructors compute widths
    or indices with them; and unlike it, nothing goes through the Python decomposition of every random
    number that is not drawn, which is most of the time of building a large network there.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let `func` pass, unless it makes or fills what has only a shape."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _FILLS:
            target = args[0] if args else options.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        elif name in _STORAGE and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)
