"""A slim network of any kind, its folder, and the way back: the whole network given, cut as the folder says.

The folder holds `model.safetensors` (every parameter and buffer, shared ones once), `model.json` (which
network it was cut from, and the attributes that the cut changed) and `plan.json`. Nothing in it is code.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import nn

from jstc.channels.analysis import require_plain
from jstc.channels.channel_map import ChannelMap
from jstc.channels.cost import Cost
from jstc.channels.cutting import slicing
from jstc.channels.trace.ids import named_tensors
from jstc.core import files
from jstc.errors import ChannelError, InputError, ModelError
from jstc.plan import Plan

__all__ = ["MODEL", "PLAN", "SCHEMA", "TENSORS", "Slim", "read", "rebuild", "refilled", "write_tensors"]

SCHEMA = 1
TENSORS, MODEL, PLAN = "model.safetensors", "model.json", "plan.json"
_SHOWN = 5


@dataclass(frozen=True)
class Slim:
    """A cut network: `network` is an ordinary module of the whole network's class, `cost` that of `plan`.

    `score` is the user's own figure, higher is better, where there is one. `attributes` are those that the
    cut changed, `whole` the shapes of the whole network's parameters, both by qualified name.
    `Slim.of` makes one of what is at hand. Raises `InputError` for a score that is no finite number.
    """

    network: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)
    cost: Cost
    score: float | None = None
    attributes: Mapping[str, int] = field(default_factory=dict, repr=False)
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise InputError(f"a score of {self.score} says nothing: give a finite number, or None")

    @classmethod
    def of(cls, channels: ChannelMap, plan: Plan, network: nn.Module, *, score: float | None = None) -> Slim:
        """The slim network that `channels.slice(model, plan)` gave, trained or not.

        Raises `ChannelError` when `plan` is of another network, or `network` is not one of that plan.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
        expected = channels.shapes(plan)
        if shapes != expected:
            odd = [n for n in {**expected, **shapes} if expected.get(n) != shapes.get(n)]
            raise ChannelError(
                "the network is not the one that this plan makes",
                "give what `channels.slice(model, plan)` has returned, without a wrapper around it",
                details=_listed(
                    odd, lambda n: f"{n}: {_size(shapes.get(n))}, the plan makes it {_size(expected.get(n))}"
                ),
            )
        return cls(network, plan, channels.cost(plan), score, channels.attributes(plan), channels.shapes())

    def save(self, folder: Path | str, *, build: str | None = None, score: float | None = None) -> None:
        """Write the network to `folder`, all of it or nothing; `jstc.rebuild` reads it.

        A slim network that was saved there before is replaced. Weights are those that it has now; `score` is
        theirs, where it is another than before a finetune. `build` names the code that builds the whole
        network without arguments, `net.py:make` or `package.module:make`: with it `jstc.load(folder,
        allow_code="net.py:make")` loads the network. Raises `InputError` when the folder holds anything else.
        """
        folder = Path(folder).resolve()
        _require_free(folder)
        if build is not None and ":" not in build:
            raise InputError(f"build={build!r}: expected 'net.py:make' or 'package.module:make'")
        document = {
            "schema": SCHEMA,
            "class": _kind(self.network),
            "plan_hash": self.plan.hash,
            "attributes": dict(self.attributes),
            "whole": {name: list(shape) for name, shape in self.whole.items()},
            "cost": {name: value for name, value in asdict(self.cost).items() if value is not None},
            "score": replace(self, score=score).score if score is not None else self.score,
            "build": build,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".tmp-{folder.name}-", dir=folder.parent) as beside:
            made = Path(beside, "new")
            write_tensors(self.network, made / TENSORS)
            self.plan.save(made / PLAN)
            files.write_json(made / MODEL, document)
            files.replace_folder(made, folder)


def write_tensors(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of a network, each once and in its own number format."""
    tensors = {name: t.detach().contiguous().clone() for name, t in named_tensors(network)}
    files.write_with(path, lambda temporary: save_file(tensors, temporary))


def _require_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot save a network to {folder}: it is a file")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - {TENSORS, MODEL, PLAN} or 0 < len(there) < 3:
        names = ", ".join(sorted(there)[:_SHOWN])
        raise InputError(
            f"cannot save a network to {folder}: it holds something else ({names})",
            "give a folder of its own",
        )


def _kind(network: nn.Module) -> str:
    """Name of a network's class; of one whose heads were cut that of the layer that it was."""
    kind = type(network)
    return (kind.__mro__[1] if getattr(kind, "_jstc_adapted", False) else kind).__name__


# Reading.


def rebuild(model: nn.Module, folder: Path | str) -> nn.Module:
    """The slim network in `folder`: `model`, the whole network with any weights, cut, with the weights there.

    Works for any network that `Slim.save` or `jstc slim` has saved; `model` is left as it is. The result is
    in evaluation mode, in the number formats of the file and on the devices of `model`. What is neither a
    parameter nor a buffer comes from `model`, but for the attributes that the cut changed.

    Raises `ModelError` when the folder is not of a slim network, is damaged, or is of another network, and
    `ChannelError` for a network that cannot be copied or cut as it is.
    """
    folder = Path(folder)
    require_plain(model)
    document = read(folder)
    kind, whole = document.get("class"), document.get("whole", {})
    if kind is not None and kind != _kind(model):
        raise ModelError(f"{folder} has a network of the class '{kind}', but was given a '{_kind(model)}'")
    own = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    odd = [name for name, shape in own.items() if name in whole and whole[name] != shape]
    if odd:
        raise ModelError(
            f"{folder} was cut from a network of other sizes than the one given",
            "build the network as it was before the cut",
            details=_listed(odd, lambda n: f"{n}: {_size(own[n])}, there {_size(whole[n])}"),
        )
    _require_plan(folder, document)
    return refilled(model, folder / TENSORS, document.get("attributes", {}))


def read(folder: Path) -> dict[str, Any]:
    """What the `model.json` in `folder` says. Raises `ModelError` when it is missing, or not ours."""
    path = folder / MODEL
    try:
        document = files.read_json(path)
        if document["schema"] != SCHEMA:
            raise ModelError(f"{folder}: schema {document['schema']!r} is not {SCHEMA}")
        for key in ("attributes", "whole", "cost"):
            if not isinstance(document.get(key, {}), dict):
                raise TypeError(f"'{key}' is not a mapping")
        if not all(isinstance(shape, list) for shape in document.get("whole", {}).values()):
            raise TypeError("'whole' has something else than lists of sizes")
    except FileNotFoundError:
        raise ModelError(
            f"no slim network in {folder}: it has no {MODEL}; run `jstc slim` first, or save one there"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not the spec of a slim network: {error}") from None
    found: dict[str, Any] = document
    return found


def _require_plan(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / PLAN
    try:
        same = not path.exists() or Plan.load(path).hash == document.get("plan_hash")
    except ChannelError as error:
        raise ModelError(str(error)) from None
    if not same:
        raise ModelError(f"{path} is not the plan of the network beside it; save the network again")


def refilled(model: nn.Module, path: Path, attributes: Mapping[str, int]) -> nn.Module:
    """A copy of `model` with the tensors in the file and these attributes, in evaluation mode.

    Raises `ModelError` when the file is missing or damaged, or does not fit.
    """
    own = dict(named_tensors(model))
    try:
        files.require_regular(path)
        tensors = load_file(path)
        real = {name: tensor.device for name, tensor in own.items() if not tensor.is_meta}
        placed = {name: tensor.to(real.get(name, "cpu")) for name, tensor in tensors.items()}
        return slicing.rebuild(model, placed, attributes).eval()
    except (ChannelError, OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {error}") from None


def _listed(names: Sequence[str], line: Callable[[str], str]) -> list[str]:
    more = len(names) - _SHOWN
    return [line(name) for name in names[:_SHOWN]] + ([f"and {more} more"] if more > 0 else [])


def _size(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else str(list(shape))
