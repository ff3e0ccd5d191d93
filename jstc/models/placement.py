"""Where in a file a network is: what stands before its names, and what else the file holds.

A training keeps its network under keys of its own and wraps it: `state_dict.model.conv1.weight` is
Lightning's name of `conv1.weight`, `model_ema.module.conv1.weight` that of an average. All of it is one
thing, a beginning of names, and the network tells which: that after which all its tensors follow, in their
shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from torch import Tensor, nn

from jstc.core.safe_text import one_line
from jstc.errors import ModelError
from jstc.models.checkpoints import some
from jstc.models.reparametrised import endings, whole

__all__ = ["COUNTER", "Placed", "place"]

COUNTER = ".num_batches_tracked"
"""How the name of a buffer ends that very old files lack."""

_USUAL = ("state_dict", "model_state_dict", "model")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)", re.IGNORECASE)
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

_Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Placed:
    """Tensors by the names that the network has for them, and sentences on how they were found."""

    tensors: _Tensors
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """The tensors of a file as their names may be read: after which beginning how many fit the network.

    `outer` stands before all names of the network and is not looked for; `notes` say what was done.
    """

    tensors: _Tensors
    outer: str
    fits: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def most(self) -> int:
        """How many fit after the best beginnings."""
        return max(self.fits.values(), default=0)


def place(model: nn.Module, own: _Tensors, tensors: _Tensors, source: str) -> Placed:
    """Find the network's tensors among those of a file, by the names in `own`, its state dict.

    Where they are not all there, those that come nearest; the rest of what begins like them comes along, by
    whatever name. Raises `ModelError` where there are several networks that are as near.
    """
    needed = sum(not key.endswith(COUNTER) for key in own)
    best: _Reading | None = None
    for reading in _readings(model, own, tensors, source):
        if best is None or reading.most > best.most:
            best = reading
        if best.most == needed:
            break
    assert best is not None
    if best.most * 2 < needed:  # some other network: told by the names as they are
        return Placed(tensors)
    found = _exact([begin for begin, count in best.fits.items() if count == best.most], best, own)
    begin, others = _chosen(found, best.tensors, source)
    aside = tuple(
        part for other in others for part in (other, _count_of(other)) if not begin.startswith(part)
    )
    inside = {
        best.outer + key.removeprefix(begin): tensor
        for key, tensor in best.tensors.items()
        if key.startswith(begin) and not key.startswith(aside)
    }
    said = map(one_line, _said(begin, others, best.tensors, source))
    return Placed(inside, (*said, *best.notes))


def _exact(found: list[str], reading: _Reading, own: _Tensors) -> list[str]:
    """Those beginnings that the fewest unknown names follow: a larger network may have all of a smaller."""
    unknown = dict.fromkeys(found, 0)
    for key in reading.tensors:
        begins = (key.removesuffix(ending) for ending in endings(key))
        begin = max((one for one in begins if one in unknown), key=len, default=None)
        if begin is not None and reading.outer + key.removeprefix(begin) not in own:
            unknown[begin] += not key.endswith("n_averaged")
    return [begin for begin in found if unknown[begin] == min(unknown.values())]


def _readings(model: nn.Module, own: _Tensors, tensors: _Tensors, source: str) -> Iterator[_Reading]:
    """Ways to read the names of a file, those that change least first."""
    for before in dict.fromkeys(("", ".".join([*_shared(own), ""]))):
        names = {key.removeprefix(before): tensor for key, tensor in own.items()}
        plain = _Reading(tensors, before, _fits(tensors, names), ())
        yield plain
        spelled = {_modern(key, names): tensor for key, tensor in _unwrapped(tensors, names).items()}
        reading = replace(plain, tensors=spelled, fits=_fits(spelled, names))
        yield reading
        layers = {name.removeprefix(before): layer for name, layer in model.named_modules()}
        joined, made = whole(spelled, layers, names)
        notes = tuple(
            f"weights {source}: {form} of {some(of)} became plain weights" for form, of in made.items()
        )
        yield replace(reading, tensors=joined, fits=_fits(joined, names), notes=notes)


def _shared(names: Iterable[str]) -> list[str]:
    """The words that all names begin with; the last word of a name is not among them."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return [words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns)]


def _fits(tensors: _Tensors, names: _Tensors) -> dict[str, int]:
    """How many of the network's tensors follow each beginning, in their shapes."""
    found = {"": 0}
    for key, tensor in tensors.items():
        for ending in endings(key):
            ours = None if ending.endswith(COUNTER) else names.get(ending)
            if ours is not None and not tensor.is_nested and ours.shape == tensor.shape:
                begin = key.removesuffix(ending)
                found[begin] = found.get(begin, 0) + 1
    return found


def _unwrapped(tensors: _Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    """Names without what torch's wrappers add in their middle, where only a part of a network was wrapped."""
    words = {word for name in names for word in name.split(".")}
    added = set(_WRAPPERS) - words
    return {".".join(w for w in key.split(".") if w not in added): tensor for key, tensor in tensors.items()}


def _modern(key: str, names: _Tensors) -> str:
    # torchvision's published DenseNets say norm.1 where the network says norm1
    modern = re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)
    known = any(ending in names for ending in endings(key))
    return modern if not known and any(ending in names for ending in endings(modern)) else key


def _chosen(found: list[str], tensors: _Tensors, source: str) -> tuple[str, list[str]]:
    """Which of several networks in a file is meant, and which of the others are its averages.

    Raises `ModelError` where that would be a guess.
    """
    if "" in found:
        return "", [begin for begin in found if begin]
    averages = [begin for begin in found if _is_average(begin, tensors)]
    plain = [begin for begin in found if begin not in averages]
    if not plain and len(averages) > 1:
        plain, averages = averages, []
    elif not plain:
        return averages[0], []
    if len(plain) > 1:
        at = len(_shared(plain))
        usual = [begin for word in _USUAL for begin in plain if begin.split(".")[at] == word]
        if not usual:
            parts = [begin.rstrip(".") for begin in plain]
            raise ModelError(
                f"weights {source} have several networks that fit: {some(parts)}; say which: "
                f"--weights '{one_line(_part(source, parts[0]))}'"
            )
        averages = [*averages, *(begin for begin in plain if begin != usual[0])]
        plain = usual
    return plain[0], averages


def _is_average(begin: str, tensors: _Tensors) -> bool:
    return bool(_AVERAGED.search(begin)) or _count_of(begin) in tensors


def _count_of(begin: str) -> str:
    """What torch's AveragedModel has beside its network: of how many it is the average."""
    return f"{begin.removesuffix('module.')}n_averaged"


def _said(begin: str, others: list[str], tensors: _Tensors, source: str) -> Iterator[str]:
    """Sentences on what was taken, and what was not."""
    if begin:
        yield f"weights {source}: those of the network are under '{begin.rstrip('.')}'"
        words = begin.split(".")
        known = (begin, *others, *map(_count_of, others))
        aside = (key for key in tensors if not key.startswith(known))
        groups = dict.fromkeys(_group(key.split("."), words) for key in aside)
        groups.pop("n_averaged", None)
        if groups:
            yield f"weights {source}: not of the network, and left out: {some(groups)}"
    for other in others:
        part = other.rstrip(".")
        what = "an average of them over the training" if _is_average(other, tensors) else "another that fits"
        choice = f"--weights '{_part(source, part)}'"
        yield f"weights {source}: '{part}' is {what}, and left out; {choice} takes that"


def _part(source: str, part: str) -> str:
    """How a part of a file, or of a part of one, is named."""
    return f"{source}{'#' if '#' not in source or Path(source).exists() else '.'}{part}"


def _group(name: list[str], begin: list[str]) -> str:
    """The name up to where it parts from the beginning that was taken."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(name, begin, strict=False))
    return ".".join(name[: len(list(same)) + 1])
