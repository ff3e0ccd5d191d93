"""From a spec to a network. Torch loads when a network is built, not before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jstc.errors import JstcError, ModelError
from jstc.models.catalogue import check, source_of
from jstc.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build"]


def build(spec: ModelSpec, *, device: str = "cpu", seed: int = 0) -> nn.Module:
    """Build the network, initialised from `seed` alone: torch's global random state is left as it was.

    On device "meta" it takes no memory and is not initialised: shapes only.
    Raises `UnknownNameError` or `ModelError` when it cannot be built.
    """
    check(spec.name)
    import torch

    # Found (and, for a user's own file, run) before any device or random state is set for it.
    constructor = _constructor(spec)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _on_meta(constructor, spec.name) if device == "meta" else _call(constructor, spec.name)
    return model.to(device)


def _constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    source = source_of(spec.name)
    if spec.cifar:
        from jstc.models import cifar

        if spec.name not in cifar.BUILDERS:
            raise ModelError(
                f"model '{spec.name}' has no CIFAR form; these have: {', '.join(cifar.BUILDERS)}"
            )
        create = cifar.BUILDERS[spec.name]
        return partial(create, num_classes=spec.num_classes, in_channels=spec.in_channels)
    if source == "timm":
        from jstc.models import timm_source

        return timm_source.constructor(spec)
    if source == "user":
        from jstc.models import user_source

        return user_source.constructor(spec)
    from jstc.models import torchvision_source

    return torchvision_source.constructor(spec)


def _on_meta(constructor: Callable[[], nn.Module], name: str) -> nn.Module:
    from jstc.models.meta import ShapesOnly

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
