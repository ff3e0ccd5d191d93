"""Any network as an ONNX file: every input and output by name, compared with torch before it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from jstc._version import __version__
from jstc.channels import Slim
from jstc.channels.analysis import require_plain
from jstc.errors import InputError, ParityError, StageError
from jstc.export.calls import BATCH, Call, Sizes, dynamic_sizes, free, runs
from jstc.export.card import encode_metadata
from jstc.export.write import plain_copy, save, traced
from jstc.ort import sessions

__all__ = ["Exported", "OutputParity", "export_onnx"]

Shape = tuple[int | str, ...]
"""Sizes; a name stands for a dynamic one."""

_INPUT, _OUTPUT = "jstc.input.", "jstc.output."
_PREFIX = "network."
_ODD = 5  # a batch that hardly anybody trains with
_SHOWN = 5


@dataclass(frozen=True)
class OutputParity:
    """How near an output of a file is to torch's, in the run in which it is farthest from it.

    `max_abs_diff` is the largest difference, `limit` the one allowed, `largest` torch's largest absolute
    value.
    """

    name: str
    shape: Shape
    type: str
    max_abs_diff: float
    limit: float
    largest: float

    @property
    def excess(self) -> float:
        """The difference as a share of its limit; infinite for one that is no number."""
        if self.max_abs_diff <= self.limit:  # both may be zero
            return self.max_abs_diff / self.limit if self.limit else 0.0
        return self.max_abs_diff / self.limit if self.limit and self.max_abs_diff > 0 else math.inf


@dataclass(frozen=True)
class Exported:
    """An exported file: its inputs with their shapes, its outputs beside torch's, and what was compared.

    `runs` are the dynamic sizes, by name, in the runs that were compared.
    """

    path: Path
    inputs: Mapping[str, Shape]
    outputs: tuple[OutputParity, ...]
    runs: tuple[Mapping[str, int], ...]

    @property
    def max_abs_diff(self) -> float:
        """The largest difference of any output."""
        return max(output.max_abs_diff for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self) | {"path": str(self.path), "max_abs_diff": self.max_abs_diff}


def export_onnx(
    network: nn.Module | Slim,
    example: Any,
    path: Path | str,
    *,
    batch: int | Literal["dynamic"] | None = "dynamic",
    opset: int = 18,
    tolerance: float = 1e-4,
    outputs: Callable[[Any], Any] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Exported:
    """Write any network to the ONNX file `path`, in float32 and evaluation mode, compared with torch.

    `example` is what the network is called with: a tensor, a tuple, a dict of keywords, or (tuple, dict);
    tuples, lists and dicts may be nested, what is no tensor is fixed. Inputs have the names of the forward's
    parameters, outputs those of keys and fields. `outputs` picks from what the forward returns.

    `batch` is the first size of the first tensor, and of all others that share it: any number, or a fixed
    one; None where that is no batch, as of images [C, H, W]. `dynamic` names further sizes:
    `{"image": {2: "height", 3: "width"}}`. onnxruntime runs the file on the example and on other sizes of all
    that is dynamic. Every output may differ from torch's by `tolerance`, times its largest absolute value
    where that is above 1; whole numbers not at all.

    Raises `ParityError` above that, `InputError` for an example that the network cannot run, `StageError`
    when torch cannot export it; what was at `path` before is there still.
    """
    path, module = Path(path), network.network if isinstance(network, Slim) else network
    copied = plain_copy(module)
    require_plain(copied)
    call = Call.of(copied, example, outputs)
    sizes = dynamic_sizes(call, batch, dynamic or {})
    if isinstance(batch, int):
        call = call.resized({name: {0: batch} for name in call.batched})
    compared = list(runs(call, sizes))
    # Some forwards keep the last sizes and ask whether they are others now: the exporter would fix those.
    model = _graph(compared[-1].of_copy(plain_copy(module)), sizes, opset)
    found: list[OutputParity] = []
    save(
        model,
        path,
        metadata=encode_metadata(_facts(network, call.named(sizes))),
        verify=lambda written: found.extend(_compared(written, path.name, compared, tolerance)),
    )
    named = tuple(run.named(sizes) for run in compared)
    return Exported(path, _shapes(model.graph.input), tuple(found), named)


def _facts(network: nn.Module | Slim, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Metadata of the file: the sizes of the example, and of a slim network also what it costs."""
    found: dict[str, Any] = {"precision": "fp32", "jstc_version": __version__, "sizes": dict(sizes) or None}
    if isinstance(network, Slim):
        cost = network.cost
        found |= {"flops": cost.flops, "params": cost.params, "plan_hash": network.plan.hash}
    return found


# The graph, under the names of the network.


def _graph(call: Call, sizes: Sizes, opset: int) -> onnx.ModelProto:
    """The graph of a call. Raises `StageError` when a size that was to be dynamic is not."""
    # The exporter takes 1 for a constant, and a size that the network remembers, as that of its training.
    before = {own: _ODD if own == BATCH else max(2, size) for own, size in call.named(sizes).items()}
    least = {name: {dim: before[own] for dim, own in dims.items()} for name, dims in sizes.items()}
    dims = {own: torch.export.Dim(own) for own in before}
    shapes = tuple({dim: dims[own] for dim, own in sizes.get(name, {}).items()} for name in call.inputs)
    # Names of our own first: torch's exporter does not look whether those it is given are free.
    ready = call.resized(least).inputs.values()
    inputs = {f"{_INPUT}{index}": tensor for index, tensor in enumerate(ready)}
    outputs = [f"{_OUTPUT}{index}" for index in range(len(call.outputs))]
    model = traced(call.network, inputs, outputs, opset=opset, sizes=(shapes,) if sizes else None)
    names = zip((*inputs, *outputs), (*call.inputs, *call.outputs), strict=True)
    _rename(model.graph, dict(names))
    written = _shapes(model.graph.input)
    for name, dim, own in ((name, dim, own) for name, dims in sizes.items() for dim, own in dims.items()):
        if name in written and written[name][dim] != own:
            raise StageError(
                f"the exported graph fixes the size '{own}' of '{name}': the forward uses a constant for it",
                "give batch=N or None, or leave that size out of dynamic",
            )
    return model


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give inputs and outputs their names, weights those in the network; what is in the way gives way."""
    changed, taken = dict(names), set(names.values())
    inside = {name for node in _nodes(graph) for name in node.output} | {w.name for w in graph.initializer}
    for name in sorted(inside - names.keys()):
        changed[name] = free(name.removeprefix(_PREFIX), taken)
        taken.add(changed[name])
    for node in _nodes(graph):
        for values in (node.input, node.output):
            values[:] = [changed.get(name, name) for name in values]
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.name = changed.get(item.name, item.name)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph and of the graphs within."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _shapes(values: Any) -> dict[str, Shape]:
    return {
        item.name: tuple(dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim)
        for item in values
    }


# What the file gives, beside torch.


def _compared(written: Path, name: str, calls: Sequence[Call], tolerance: float) -> list[OutputParity]:
    """The outputs of the file `name`, at `written` for now, each in the run that speaks most against it.

    Raises `ParityError` where they differ too much, `StageError` when onnxruntime cannot run the file.
    """
    try:
        session = sessions.open_session(written)
    except InputError as error:
        raise StageError(f"onnxruntime cannot run the exported graph: {error.problem}") from error
    shapes = {
        item.name: tuple(size if isinstance(size, int) else str(size) for size in item.shape)
        for item in session.get_outputs()
    }
    taken = {item.name for item in session.get_inputs()}
    found: dict[str, list[OutputParity]] = {output: [] for output in shapes}
    for call in calls:
        feed = {own: tensor.numpy() for own, tensor in call.inputs.items() if own in taken}
        try:
            theirs = session.run(list(call.outputs), feed)
        except sessions.ORT_ERRORS as error:
            sizes = ", ".join(f"{own} {list(tensor.shape)}" for own, tensor in call.inputs.items())
            raise StageError(
                f"onnxruntime cannot run {name} on {sizes}: {sessions.first_line(error)}"
            ) from error
        for output, ours, other in zip(call.outputs, call.run(), theirs, strict=True):
            found[output].append(_parity(output, shapes[output], ours, other, tolerance))
    worst = [max(each, key=lambda one: one.excess) for each in found.values()]
    _require(name, worst)
    return worst


def _parity(
    name: str, shape: Shape, ours: Tensor, theirs: npt.NDArray[Any], tolerance: float
) -> OutputParity:
    if tuple(ours.shape) != theirs.shape:
        raise ParityError(
            f"the output '{name}' has the shape {list(theirs.shape)} in ONNX and {list(ours.shape)} in torch",
            "the forward takes a size from a constant: fix it by batch=N or None, or leave it out of dynamic",
        )
    mine, other = ours.double(), torch.from_numpy(np.asarray(theirs, np.float64))
    apart = torch.where(mine == other, 0.0, (mine - other).abs())  # two infinite ones are the same
    finite = mine[mine.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    limit = tolerance * max(1.0, largest) if ours.is_floating_point() else 0.0
    difference = apart.max().item() if apart.numel() else 0.0
    return OutputParity(name, shape, str(ours.dtype).removeprefix("torch."), difference, limit, largest)


def _require(file: str, outputs: Sequence[OutputParity]) -> None:
    wrong = [one for one in outputs if one.excess > 1]
    if not wrong:
        return
    more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
    raise ParityError(
        f"{file} and the network differ in {len(wrong)} of {len(outputs)} outputs",
        "look for randomness or state in the forward in evaluation mode and for outputs that are no numbers; "
        "or try another opset",
        details=[
            *(f"{one.name}: by {one.max_abs_diff:.3g}, limit {one.limit:.2g}" for one in wrong[:_SHOWN]),
            *more,
        ],
    )
