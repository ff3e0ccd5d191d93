"""A network tried in seconds before it is trained for hours: evaluation, a training step, cut and whole.

On random images of the run's size, on its device and in its precision. What must fail later raises a
`ModelError` that says what, where and the way out; what is only likely to be a mistake is returned as a note.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels.trace.ids import evaluating
from jstc.errors import OTHER_TASKS, ModelError, StageError
from jstc.models.outputs import described, logits, way_to_scores
from jstc.runs.forward_watch import Watch, failure, outside, randomness_kept, watching
from jstc.train.device import as_input, autocast

__all__ = ["Found", "Trial", "listed", "require_float32", "require_registered", "require_same_build"]

_SHOWN = 3
_SIDES = (224, 32, 64, 128, 256, 299, 384, 96, 160, 192, 240, 288, 320, 448, 512, 28)
_AGAIN = 4  # evaluations of the same images, where random numbers are drawn and no answer shows it
_ROUNDING = 1e-3  # of the scores' own size: what a GPU's order of additions or another batch may change


@dataclass(frozen=True)
class Found:
    """The notes of a trial, and the places where the forward reads values of tensors into Python."""

    notes: tuple[str, ...]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """The circumstances: images of `shape` [C, H, W], so many `classes`, the device, the run's number format.

    `dataset` is their name. `precision` is the recipe's word for `dtype`, which is None for float32.
    `smallest` is the least number of images that a part of a training step has.
    """

    shape: tuple[int, int, int]
    classes: int
    device: torch.device
    dataset: str = ""
    dtype: torch.dtype | None = None
    precision: str = "float32"
    channels_last: bool = False
    smallest: int = 2

    def whole(self, network: nn.Module) -> Found:
        """Evaluate `network` and train it a step, which changes it. Raises `ModelError`."""
        with randomness_kept():
            found = _evaluated(network, self)
            return replace(found, notes=(*found.notes, *_trained(network, self)))

    def cut(self, network: nn.Module) -> None:
        """Train a sub-network a step, after the whole network has passed. Raises `ModelError`."""
        with randomness_kept():
            try:
                self.step(network, self.images(2))
            except Exception as error:
                raise ModelError(
                    f"the smallest sub-network fails in a training step, which the whole network passes: "
                    f"{failure(error)}",
                    "what only training runs (`if self.training`) was not seen when channels were followed: "
                    "keep the layers that it touches whole with channels.ignore",
                ) from error

    def images(self, number: int) -> Tensor:
        """Random images [number, C, H, W], the same ones every time."""
        source = torch.Generator().manual_seed(0)
        found = torch.randn(number, *self.shape, generator=source).to(self.device)
        return as_input(found, channels_last=self.channels_last)

    def step(self, network: nn.Module, images: Tensor) -> Tensor:
        """The gradients of a training step on `images`; returns the scores [N, classes]."""
        network.train()
        network.zero_grad(set_to_none=True)
        labels = torch.zeros(len(images), dtype=torch.long, device=self.device)
        with autocast(self.device, self.dtype):
            output = network(images)
        scores = _scores(output)
        if list(scores.shape) != [len(images), self.classes]:
            raise StageError(f"{_counted(len(images))} gave {described(output)} in training mode")
        F.cross_entropy(scores.float(), labels).backward()  # type: ignore[no-untyped-call]
        return scores.detach()


def _scores(output: object) -> Tensor:
    try:
        return logits(output)
    except StageError as error:
        raise ModelError(error.problem, error.advice) from None


def _counted(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# -- what can be seen without running it --------------------------------------------------------------------


def require_float32(network: nn.Module) -> None:
    """Raise `ModelError` for parameters in another floating-point format, in which nothing can be trained."""
    others = {
        name: str(parameter.dtype).removeprefix("torch.")
        for name, parameter in network.named_parameters()
        if parameter.dtype.is_floating_point and parameter.dtype != torch.float32
    }
    if others:
        raise ModelError(
            f"the network is in {' and '.join(sorted(set(others.values())))} ({listed(list(others))}); "
            "weights are trained in float32",
            "give it with .float(); for training in half precision there is train.precision",
        )


def require_same_build(one: nn.Module, other: nn.Module) -> None:
    """Raise `ModelError` when two builds of a network have tensors of other names or shapes."""
    shapes = [{name: list(p.shape) for name, p in built.named_parameters()} for built in (one, other)]
    first, second = shapes
    if first == second:
        return
    name = next(name for name in {**first, **second} if first.get(name) != second.get(name))
    found = " and ".join(str(built[name]) if name in built else "nothing" for built in shapes)
    raise ModelError(
        f"it is another network each time that it is built: '{name}' was {found}",
        "a run builds it again at every stage: let its structure depend on the arguments alone",
    )


# -- evaluation ---------------------------------------------------------------------------------------------


def _evaluated(network: nn.Module, trial: Trial) -> Found:
    """Evaluations of two images, of them again, and of the first alone."""
    images = trial.images(2)
    before = {name: tensor.detach().clone() for name, tensor in network.named_buffers()}
    with evaluating(network), torch.inference_mode():
        with randomness_kept() as used, watching(network) as watch:
            output = _first_forward(network, images, trial)
        _require_owned(network, watch)
        if not torch.equal(images, trial.images(2)):
            raise ModelError(
                "the forward changes the images that it is given, which others still need (a teacher, say)",
                "change a copy: x = x.clone() at its beginning, or x = x * 2 instead of x.mul_(2)",
            )
        scores = _scores(output)
        _require_shape(output, scores, trial)
        again = _scores(_forward(network, images))
        drawn = [*watch.drawn, *used]
        changed = [name for name, tensor in network.named_buffers() if not _same(before.get(name), tensor)]
        notes = [*_repeated(network, images, scores, again, drawn, changed)]
        alone = _scores(_forward(network, images[:1]))
        if list(alone.shape) != [1, trial.classes]:
            raise ModelError(
                f"1 image gave {list(alone.shape)}; expected [1, {trial.classes}]",
                "squeeze() takes off the dimension of a batch of one as well; squeeze((2, 3)) and flatten(1) "
                "do not",
            )
    if _difference(scores[:1], alone) > _ROUNDING:
        notes.append(
            "the scores of an image depend on the others in its batch, in evaluation too, and so accuracies "
            "on the batch size; norms that keep no running statistics do that, say"
        )
    if not bool(scores.isfinite().all()):
        notes.append(
            "scores of random images are infinite or no numbers, with the weights that it begins with"
        )
    notes += _probabilities(scores, watch)
    return Found(tuple(notes), tuple(place or "in a library" for place in watch.read))


def _first_forward(network: nn.Module, images: Tensor, trial: Trial) -> Any:
    """The output for `images`. Raises `ModelError`, with a size that the network takes where it is that."""
    try:
        return _forward(network, images, trial.dataset)
    except ModelError as error:
        side = next((side for side in _SIDES if _takes(network, trial, side)), None)
        if side is None:
            raise
        advice = f"it takes images of {side}x{side}: --set input.image_size={side}"
        raise ModelError(error.problem, advice) from error.__cause__


def _takes(network: nn.Module, trial: Trial, side: int) -> bool:
    images = replace(trial, shape=(trial.shape[0], side, side)).images(1)
    try:
        return logits(network(images)).shape[-1] == trial.classes
    except Exception:  # whatever a forward raises
        return False


def _forward(network: nn.Module, images: Tensor, dataset: str = "") -> Any:
    try:
        return network(images)
    except Exception as error:
        size = "x".join(map(str, images.shape[1:])) + (f" from '{dataset}'" if dataset else "")
        raise ModelError(
            f"the forward failed for {_counted(len(images))} of {size}: {failure(error)}"
        ) from error


def require_registered(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise `ModelError` when the forward uses layers that `network` does not have, whatever else it does."""
    images = torch.zeros(2, *shape)
    with (
        randomness_kept(),
        evaluating(network),
        torch.inference_mode(),
        watching(network) as watch,
        contextlib.suppress(Exception),
    ):
        network(images)
    _require_owned(network, watch)


def _require_owned(network: nn.Module, watch: Watch) -> None:
    strange = outside(network, watch)
    if strange:
        raise ModelError(
            f"the forward uses layers that are not registered in the network: {listed(strange)}; they "
            "would be neither trained, cut nor saved",
            "hold several in an nn.ModuleList or nn.ModuleDict instead of a list or dict, and assign single "
            "ones in __init__ (self.NAME = ...)",
        )


def _require_shape(output: object, scores: Tensor, trial: Trial) -> None:
    whole = "" if output is scores else f", in {described(output)}"
    shape, classes = tuple(scores.shape), trial.classes
    if shape == (2, classes):
        return
    advice = way_to_scores(output, shape, classes)
    if scores.dim() != 2 or len(scores) != 2:
        raise ModelError(
            f"2 images gave {list(shape)}{whole}; expected class scores [N, classes]", advice or OTHER_TASKS
        )
    scored = "1 score" if shape[1] == 1 else f"{shape[1]} scores"
    raise ModelError(
        f"it gives {scored} for an image{whole}, dataset '{trial.dataset}' has {classes} classes",
        advice or f"give its last layer {classes} outputs, or let the factory take num_classes",
    )


def _same(before: Tensor | None, now: Tensor) -> bool:
    return before is not None and before.shape == now.shape and bool((before == now).all())


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two tensors of scores, over their own size."""
    size = float(one.float().abs().nan_to_num().max())
    return float((one.float() - other.float()).abs().nan_to_num().max()) / max(size, 1e-12)


def _repeated(
    network: nn.Module,
    images: Tensor,
    scores: Tensor,
    again: Tensor,
    drawn: Sequence[str],
    changed: Sequence[str],
) -> Iterator[str]:
    """Notes on an answer that is not a function of the images alone. Raises `ModelError` where it differs."""
    tries = [again]
    if drawn:  # what is multiplied by weights that begin as zeros shows in no answer
        tries += [_scores(_forward(network, images)) for _ in range(_AGAIN - 1)]
    largest = max(_difference(scores, each) for each in tries)
    if (drawn and largest > 0) or largest > _ROUNDING:
        raise _not_repeatable(max(float((scores - each).abs().max()) for each in tries), drawn, changed)
    if drawn:
        yield (
            f"the forward draws random numbers in evaluation too ({listed(drawn)}), which changed no answer "
            "here; where it may once training has begun, tie it to self.training"
        )
    elif changed:
        yield (
            f"an evaluation changes {listed(changed)} of the network, and so what is trained and saved "
            "after it; change it only where self.training"
        )


def _not_repeatable(difference: float, drawn: Sequence[str], changed: Sequence[str]) -> ModelError:
    told = f"two evaluations of the same images differ by {difference:.3g}"
    if drawn:
        return ModelError(
            f"{told}: the forward draws random numbers in evaluation too ({listed(drawn)})",
            "tie that to self.training, as nn.Dropout does; F.dropout needs training=self.training",
        )
    if changed:
        return ModelError(
            f"{told}: the forward changes {listed(changed)}, and uses that in the next call",
            "change it only where self.training",
        )
    return ModelError(
        f"{told}: the forward depends on something beside its images and weights",
        "in evaluation the answer must be a function of these alone; look for counters, clocks and caches",
    )


def _probabilities(scores: Tensor, watch: Watch) -> list[str]:
    """A note where cross-entropy would get probabilities."""
    end = watch.end(scores)
    if end is None and scores.shape[1] > 1 and bool((scores >= 0).all()):
        sums = scores.float().sum(dim=1)
        end = "a softmax" if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) else None
    if end is None:
        return []
    what = "sum to 1" if end == "a softmax" else "lie between 0 and 1"
    return [
        f"the outputs of every image {what}: {end} at the end of the network? Cross-entropy takes the scores "
        "before it, and learns badly from probabilities; leave it off (the best class stays the same)"
    ]


# -- a training step ----------------------------------------------------------------------------------------


def _trained(network: nn.Module, trial: Trial) -> list[str]:
    """Notes on a step in training mode, as large and as small as the run may make it."""
    _try(network, trial, 2)
    idle = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    if trial.smallest == 1:
        _try(network, trial, 1)
    if not idle:
        return []
    count = sum(p.numel() for name, p in network.named_parameters() if name in set(idle))
    return [
        f"no gradient reaches {count:,} parameters ({listed(idle)}): the training leaves them as they are; "
        "the forward does not use them, or takes them out of the gradient (detach, no_grad)"
    ]


def _try(network: nn.Module, trial: Trial, number: int) -> None:
    try:
        trial.step(network, trial.images(number))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _refusal(error, network, trial, number) from error


def _refusal(error: Exception, network: nn.Module, trial: Trial, number: int) -> ModelError:
    told = failure(error)
    if trial.dtype is not None and _works(network, replace(trial, dtype=None), number):
        name = str(trial.dtype).removeprefix("torch.")
        word = "" if trial.precision == name else f" (train.precision={trial.precision}, here {name})"
        return ModelError(
            f"a training step fails in {name}{word}, and works in float32: {told}",
            "train with --set train.precision=float32, or take what needs float32 out with .float()",
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return ModelError(
            "no parameter of the network can be trained: requires_grad is False for all",
            "network.requires_grad_(True)",
        )
    if number == 1 and _works(network, trial, 2):
        return ModelError(
            f"a training step of one image fails, and one of two works: {told}",
            "batch norms need more than one value; raise train.batch_size, or lower train.accumulate",
        )
    return ModelError(
        f"a training step of {_counted(number)} fails, where their evaluation works: {told}",
        "look for what only training does (`if self.training`), changes in place, scores without a gradient, "
        "and tensors that the forward keeps from an evaluation",
    )


def _works(network: nn.Module, trial: Trial, number: int) -> bool:
    try:
        trial.step(network, trial.images(number))
    except Exception:
        return False
    return True
