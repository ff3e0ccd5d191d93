"""Fold the gates, emit the slim network, and load it again: safetensors and a spec, never a pickle.

The folder of a slim network needs nothing beside it: its tensors' shapes say how wide each layer is. The plan
stays in the search's folder, and `plan_hash` in model.json says which plan it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from jstc import models, soundness
from jstc.channels import ChannelMap, GatedNetwork, fold, rebuild, slim_network
from jstc.channels.slim_network import MODEL, SCHEMA, TENSORS
from jstc.channels.trace.memory import duplicate
from jstc.core import files, numbers
from jstc.errors import ModelError, StageError
from jstc.models import ModelSpec, user_code
from jstc.plan import Plan
from jstc.train import handover

__all__ = ["FOLD_TOLERANCE", "emit", "load"]

FOLD_TOLERANCE = 1e-5
"""Largest difference of an output that folding the gates may make, but where float32 cannot do as well."""

_MANY_CLASSES = 25_000  # ImageNet-21k has fewer
_LARGE_IMAGE = 3 * 1024**2


def emit(
    target: nn.Module,
    channels: ChannelMap,
    spec: ModelSpec,
    *,
    plan: Plan,
    source: Path,
    directory: Path,
    images: Tensor,
) -> dict[str, Any]:
    """Write the sub-network of `plan` in `source` (of finetune or search) as an ordinary one in `directory`.

    Writes `model.safetensors` (every parameter and buffer) and `model.json` (how to build it again, and the
    plan's hash). `target` is the target network before its training. Returns what was found on the way, on
    `images` [N, C, H, W]: `max_abs_diff_fold`, the largest difference that folding made to an output, with
    its limit; the network's own `rounding` in float32; and the weights that no image reaches, `unreached`.

    Raises `StageError` when folding changed more than rounding explains, or when the network holds values
    that no sound training leaves; `RunDirectoryError` when `source` has the sub-network of another plan.
    """
    small = channels.slice(target, plan)
    gated = channels.gated(small, plan)
    handover.load_subnetwork(source / "subnetwork.safetensors", plan=plan).restore(gated)
    network, difference = _folded(gated, images)
    out_of_reach = soundness.unreached(network, spec.input_shape)
    soundness.require_sane(network, initial=target, unreached=out_of_reach, what="the slim network")
    rounding = soundness.rounding(network, images)
    limit = rounding.limit(FOLD_TOLERANCE)
    if not difference <= limit:
        changed = numbers.unlike(difference, limit, "{:.{}g}".format, 3)
        raise StageError(f"folding the gates changed an output by {changed}, above {limit:.3g}")
    slim_network.write_tensors(network, directory / TENSORS)
    files.write_json(
        directory / MODEL,
        {
            "schema": SCHEMA,
            "model": spec.to_dict(),
            "plan_hash": plan.hash,
            "attributes": channels.attributes(plan),
        },
    )
    return {
        "max_abs_diff_fold": difference,
        "max_abs_diff_fold_limit": limit,
        "rounding": rounding.to_dict(),
        "unreached": out_of_reach.to_dict(),
    }


def _folded(gated: GatedNetwork, images: Tensor) -> tuple[nn.Module, float]:
    gated.float().cpu().eval()
    images = images.cpu().float()
    before = soundness.plain_scores(gated, images)
    network = fold(duplicate(gated))
    difference = (before - soundness.plain_scores(network, images)).abs().max()
    return network, float(difference)


def load(
    path: Path | str,
    *,
    allow_code: bool | str = False,
    target: nn.Module | None = None,
    plan: Plan | None = None,
) -> nn.Module:
    """The network that `emit` wrote to `path`, in eval mode: an ordinary module of its own class.

    Needs no analysis: the shapes in the file say it all, so that a file stays loadable whatever later
    versions find out about the network. A spec that names a Python file of its author's runs that file, which
    `allow_code` must permit: the name of the network, such as `"net.py:make"`, that code and no other; True
    whatever the spec names. Nothing is built or run where `target` is the network that it was cut from; a
    name in `allow_code` that is not the spec's is refused there, too. What `Slim.save` has written is loaded
    likewise, by the code that it names as `build`; `jstc.rebuild` needs none.

    Raises `ModelError` when something is missing, damaged, or does not fit, or when the network is not that
    of `plan`, where one is given.
    """
    folder = Path(path)
    document = slim_network.read(folder)
    if "class" in document:
        return rebuild(
            _built(document.get("build"), folder, allow_code) if target is None else target, folder
        )
    spec = _spec(document, folder)
    if plan is not None and spec.plan_hash != plan.hash:
        raise ModelError(
            f"{folder} has the network of another plan ({spec.plan_hash[:12]}, expected {plan.hash[:12]}); "
            f"run `jstc slim {folder.parent} --fresh`"
        )
    tensors = folder / TENSORS
    if (target is None or allow_code) and models.runs_user_code(spec.model.name):
        _require_permission(spec.model.name, folder, allow_code)
    if target is None:
        _require_outputs(spec.model, tensors)
        target = models.build(spec.model, seed=0)
    network = slim_network.refilled(target, tensors, spec.attributes)
    try:
        _run_once(network, spec.model)
    except Exception as error:  # whatever a forward raises means that
        raise ModelError(f"{tensors} cannot be loaded: {error}") from None
    return network


def _require_permission(name: str, folder: Path, allow_code: bool | str) -> None:
    if allow_code is not True and allow_code != name:
        raise ModelError(
            f"{folder}: the network is built by running '{name}'; "
            f"pass allow_code={name!r} if you trust that code"
        )


def _built(build: object, folder: Path, allow_code: bool | str) -> nn.Module:
    """The whole network by the code that a folder of `Slim.save` names."""
    if not isinstance(build, str):
        raise ModelError(
            f"{folder} does not say how its network is built",
            "build the whole network yourself, and call jstc.rebuild(network, folder)",
        )
    _require_permission(build, folder, allow_code)
    return user_code.made(build)


def _run_once(network: nn.Module, spec: ModelSpec) -> None:
    """Do the tensors fit each other, too? For images that a file says are large, by their shapes alone."""
    large = math.prod(spec.input_shape) > _LARGE_IMAGE
    probe = duplicate(network).to("meta") if large else network
    with torch.inference_mode():
        probe(torch.zeros(1, *spec.input_shape, device="meta" if large else "cpu"))


def _require_outputs(spec: ModelSpec, path: Path) -> None:
    """Before a network of millions of classes is built in memory, because a file says so: are they there?"""
    if spec.num_classes <= _MANY_CLASSES or not path.is_file():
        return
    try:
        files.require_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            rows = {(*file.get_slice(name).get_shape(), 0)[0] for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {error}") from None
    if spec.num_classes not in rows:
        raise ModelError(f"{path} cannot be loaded: it has no layer with {spec.num_classes} outputs")


@dataclass(frozen=True)
class _Spec:
    """What model.json says: how to build the network, and the attributes that follow its widths."""

    model: ModelSpec
    attributes: dict[str, int]
    plan_hash: str


def _spec(document: Mapping[str, Any], folder: Path) -> _Spec:
    try:
        model = ModelSpec.from_dict(document["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / MODEL} is not the spec of a slim network: {error}") from None
    return _Spec(model, document.get("attributes", {}), str(document.get("plan_hash", "")))
