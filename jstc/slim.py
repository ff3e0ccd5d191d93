"""Fold the gates, emit the slim network, and load it again: safetensors and a spec, never a pickle.

The folder of a slim network needs nothing beside it: its tensors' shapes say how wide each layer is. The plan
stays in the search's folder, and `plan_hash` in model.json says which plan it was.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jstc import models, soundness
from jstc.channels import ChannelMap, GatedNetwork, fold
from jstc.channels.cutting.slicing import rebuild
from jstc.channels.trace.ids import named_tensors
from jstc.core import files, numbers
from jstc.errors import ChannelError, ModelError, StageError
from jstc.models import ModelSpec
from jstc.plan import Plan
from jstc.train import handover

__all__ = ["FOLD_TOLERANCE", "emit", "load"]

FOLD_TOLERANCE = 1e-5
"""Largest difference of an output that folding the gates may make, but where float32 cannot do as well."""

_SCHEMA = 1
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
    tensors = {name: t.detach().contiguous().clone() for name, t in named_tensors(network)}
    files.write_with(directory / "model.safetensors", lambda path: save_file(tensors, path))
    files.write_json(
        directory / "model.json",
        {
            "schema": _SCHEMA,
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
    network = fold(copy.deepcopy(gated))
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
    name in `allow_code` that is not the spec's is refused there, too.

    Raises `ModelError` when something is missing, damaged, or does not fit, or when the network is not that
    of `plan`, where one is given.
    """
    folder = Path(path)
    spec = _read_spec(folder)
    if plan is not None and spec.plan_hash != plan.hash:
        raise ModelError(
            f"{folder} has the network of another plan ({spec.plan_hash[:12]}, expected {plan.hash[:12]}); "
            f"run `jstc slim {folder.parent} --fresh`"
        )
    tensors = folder / "model.safetensors"
    if target is None or allow_code:
        _require_permission(spec.model, folder, allow_code)
    if target is None:
        _require_outputs(spec.model, tensors)
        target = models.build(spec.model, seed=0)
    try:
        files.require_regular(tensors)
        network = rebuild(target, load_file(tensors), spec.attributes).eval()
    except (ChannelError, OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{tensors} cannot be loaded: {error}") from None
    try:
        _run_once(network, spec.model)
    except Exception as error:  # whatever a forward raises means that
        raise ModelError(f"{tensors} cannot be loaded: {error}") from None
    return network


def _require_permission(spec: ModelSpec, folder: Path, allow_code: bool | str) -> None:
    if models.runs_user_code(spec.name) and allow_code is not True and allow_code != spec.name:
        raise ModelError(
            f"{folder}: the network is built by running '{spec.name}'; "
            f"pass allow_code={spec.name!r} if you trust that code"
        )


def _run_once(network: nn.Module, spec: ModelSpec) -> None:
    """Do the tensors fit each other, too? For images that a file says are large, by their shapes alone."""
    large = math.prod(spec.input_shape) > _LARGE_IMAGE
    probe = copy.deepcopy(network).to("meta") if large else network
    with torch.inference_mode():
        probe(torch.zeros(1, *spec.input_shape, device="meta" if large else "cpu"))


def _require_outputs(spec: ModelSpec, path: Path) -> None:
    """Before a network of millions of classes is built in memory, because a file says so: are they there?"""
    if spec.num_classes <= _MANY_CLASSES or not path.is_file():
        return
    try:
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


def _read_spec(folder: Path) -> _Spec:
    try:
        document = files.read_json(folder / "model.json")
        if document["schema"] != _SCHEMA:
            raise ModelError(f"{folder}: schema {document['schema']!r} is not {_SCHEMA}")
        attributes = document.get("attributes", {})
        if not isinstance(attributes, dict):
            raise TypeError("'attributes' is not a mapping")
        model = ModelSpec.from_dict(document["model"])
        return _Spec(model, attributes, str(document.get("plan_hash", "")))
    except FileNotFoundError:
        raise ModelError(
            f"no slim network in {folder}: it has no model.json; run `jstc slim` first"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'model.json'} is not the spec of a slim network: {error}") from None
