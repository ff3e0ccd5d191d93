"""The export stage: the slim network as ONNX in every precision asked for, each held to its gate."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import onnx
import torch
from torch import Tensor, nn

from jstc import export as exporting
from jstc import slim, soundness
from jstc.core import files
from jstc.errors import GateError
from jstc.export import Parity, Score
from jstc.ort import sessions
from jstc.ort.sessions import Provider
from jstc.recipe.schema import ExportSettings, Precision
from jstc.runs.kept import Kept
from jstc.runs.stages import description
from jstc.runs.stages.train import images
from jstc.runs.workspace import StageContext
from jstc.train.loop import counted

__all__ = ["ExportedFile", "Reference", "emitted", "export", "figures", "problem"]

# What an exported file is worth: its accuracy on the test split and its agreement with torch.


@dataclass(frozen=True)
class Reference:
    """The slim network in torch and in `source`, a float32 file; what every file is compared with.

    `images` [N, C, H, W] are those for parity, and in place of the network there may be its scores for them.
    `accuracy` is that of torch on the whole test split, or on the images of it that are `kept`; rounding
    decides on `undecided` of these (None: not known). `limit` is how far logits in float32 may be from
    torch's.
    """

    network: nn.Module | Tensor
    source: Path
    images: Tensor
    accuracy: float
    limit: float
    undecided: int | None = None
    kept: bool = False


class ExportedFile(TypedDict, total=False):
    """An entry of the stage's result; `accuracy` and `top1_agreement` are fractions, `batch` None for any.

    `preprocess` is there for files that take images of any size, `max_abs_diff_limit` for float32 that takes
    images as the network does, `torch_accuracy` where not the whole test split is at hand,
    `largest_activation` for fp16, `bytes` for files that have passed.
    """

    file: str
    precision: Precision
    preprocess: bool
    accuracy: float
    test_images: int
    torch_accuracy: float
    accuracy_provider: Provider
    undefined: int
    max_abs_diff: float
    max_abs_diff_limit: float
    top1_agreement: float
    parity_images: int
    largest_activation: float
    batch: int | None
    bytes: int
    params: int


def figures(context: StageContext, path: Path, precision: Precision, reference: Reference) -> ExportedFile:
    """The entry of the file at `path` in the stage's result, without what depends on its last bytes."""
    provider = _provider(precision)
    whole = path == exporting.preprocess_path(path.with_name(exporting.file_name(precision)))
    found = _scored(context, path, provider, originals=whole)
    if whole:
        originals = _originals(context, context.recipe.export.parity_images)
        alike = exporting.preprocess_parity(reference.network, path, reference.images, originals)
    else:
        alike = exporting.parity(reference.network, path, reference.images)
    entry: ExportedFile = {"file": f"{context.folder.name}/{path.name}", "precision": precision}
    if whole:
        entry["preprocess"] = True
    entry |= {
        "accuracy": found.accuracy,
        "test_images": found.images,
        "accuracy_provider": provider,
        "undefined": found.undefined,
        "max_abs_diff": alike.max_abs_diff,
        "top1_agreement": alike.top1_agreement,
        "parity_images": alike.images,
    }
    if precision == "fp32" and not whole:
        entry["max_abs_diff_limit"] = reference.limit
        _require_same(path.name, alike, found, reference)
    if precision == "fp16":
        # The CPU computes most of fp16 in float32 and would not overflow where other hardware does.
        model = onnx.load(str(reference.source))
        entry["largest_activation"] = exporting.largest_activation(model, reference.images)
    if reference.kept:
        entry["torch_accuracy"] = reference.accuracy
    entry["batch"] = context.recipe.export.batch
    return entry


def _require_same(file: str, alike: Parity, found: Score, reference: Reference) -> None:
    """Raise `ParityError` unless a float32 file answers as torch does, but for rounding."""
    exporting.require_parity(alike, max_abs_diff=reference.limit, file=file)
    if reference.undecided is not None:
        exporting.require_answers(
            file,
            right=found.right,
            expected=round(reference.accuracy * found.images),
            images=found.images,
            undecided=reference.undecided,
        )


def problem(entry: ExportedFile, reference: Reference, *, max_drop: float) -> str | None:
    """Why a file with these figures must not be kept, if so."""
    file = Path(entry["file"]).name
    lost = exporting.accuracy_problem(
        file, accuracy=entry["accuracy"], reference=reference.accuracy, max_drop=max_drop
    )
    largest = entry.get("largest_activation", 0.0)
    if largest > exporting.LARGEST_FP16:
        return f"{file}: activations reach {largest:.3g}, and float16 ends at {exporting.LARGEST_FP16:g}"
    if entry["undefined"] or not math.isfinite(entry["max_abs_diff"]):
        remark = f"the logits of {entry['undefined']} test images are infinite or undefined"
        return f"{lost}; {remark}" if lost else f"{file}: {remark}"
    return lost


def _provider(precision: Precision) -> Provider:
    # Half precision is judged where it is computed, if it can be here; the CPU mostly uses float32 for it.
    return sessions.resolve("auto") if precision == "fp16" else "cpu"


def _scored(context: StageContext, path: Path, provider: Provider, *, originals: bool) -> Score:
    """The answers on the whole test split, shown as progress; `originals`: as the images' files have them."""
    workspace, batch_size = context.workspace, context.recipe.train.batch_size
    shown = "export " + path.name.removeprefix("model.").removesuffix("onnx").rstrip(".")
    batches = counted(
        workspace.dataset.test,
        batch_size,
        progress=context.progress,
        stage=shown.strip(),
        originals=originals,
    )
    classes = workspace.info.num_classes
    opened = exporting.open_classifier(path, provider=provider, num_classes=classes)
    return exporting.score(opened, batches, num_classes=classes)


def _originals(context: StageContext, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images that `images` gives, as their files have them."""
    return context.workspace.dataset.test.originals(count, limit=count)


_CALIBRATION_BATCH = 64


def export(context: StageContext) -> dict[str, Any]:
    """Write the slim network in every precision, verify each file, and describe them.

    A file gets its place when it has passed; the others are tried all the same. Raises `ParityError` when the
    float32 graph disagrees with torch, `GateError` for the precisions that lost too much.
    """
    _delete_old(context.folder)
    with tempfile.TemporaryDirectory(prefix="jstc-export-") as scratch:
        source = _source(context, Path(scratch))
        tried = [found for name in context.recipe.export.precisions for found in _tried(source, name)]
    _require_passed(tried, context.recipe.export)
    accuracy = source.reference.accuracy
    entries = sorted((found.entry for found in tried), key=lambda entry: entry.get("preprocess", False))
    description.describe(context, metadata=source.metadata | {"accuracy": accuracy}, entries=entries)
    return {"files": entries, "torch_accuracy": accuracy}


@dataclass(frozen=True)
class _Source:
    """What all files are made from, compared with, and tell of themselves."""

    context: StageContext
    metadata: dict[str, Any]
    reference: Reference


@dataclass(frozen=True)
class _Tried:
    """A file with its figures, and what is wrong with it."""

    precision: Precision
    entry: ExportedFile
    problem: str | None


def emitted(context: StageContext) -> nn.Module:
    """The run's slim network.

    Raises `ModelError` when it cannot be loaded or is another plan's, `StageError` for absurd weights.
    """
    structure = context.workspace.structure()
    network = slim.load(
        context.path / "slim",
        allow_code=context.recipe.model,  # what the file there names may be another
        target=structure,
        plan=context.plan,
    )
    soundness.require_sane(network, initial=structure, what="the slim network")
    return network


def _source(context: StageContext, scratch: Path) -> _Source:
    settings, workspace = context.recipe.export, context.workspace
    if workspace.kept is not None:
        return _kept_source(context, workspace.kept, scratch)
    network = emitted(context)
    path, metadata = scratch / "source.onnx", description.metadata_of(context)
    exporting.write_onnx(
        network,
        path,
        shape=workspace.spec.input_shape,
        opset=settings.opset,
        batch=settings.batch,
        metadata={},
    )
    chosen = images(context, settings.parity_images)
    limit = soundness.rounding(network, chosen).limit(settings.max_abs_diff)
    alike = exporting.parity(network, path, chosen)
    exporting.require_parity(alike, max_abs_diff=limit, file=exporting.file_name("fp32"))
    undecided = files.read_json(context.path / "slim" / "result.json").get("undecided")
    reference = Reference(network, path, chosen, metadata.pop("accuracy"), limit, undecided)
    return _Source(context, metadata, reference)


def _kept_source(context: StageContext, kept: Kept, scratch: Path) -> _Source:
    """The files of a run whose network was given from Python; all figures are on the images kept."""
    if kept.note:
        context.progress.message(kept.note)
    settings, path = context.recipe.export, scratch / "source.onnx"
    kept.copy_network(path, settings)
    metadata, chosen = description.metadata_of(context), images(context, settings.parity_images)
    del metadata["accuracy"]
    rounding = files.read_json(context.path / "slim" / "result.json")["rounding"]
    limit = soundness.Rounding(rounding["error"], rounding["largest"]).limit(settings.max_abs_diff)
    scores, undecided = kept.scores(len(chosen)), kept.undecided(2 * limit)
    reference = Reference(scores, path, chosen, kept.accuracy, limit, undecided, kept=True)
    return _Source(context, metadata, reference)


def _tried(source: _Source, precision: Precision) -> list[_Tried]:
    """The files of `precision`; those that passed are in their place."""
    context, tried = source.context, []
    for candidate in _candidates(source, precision):
        found = figures(context, candidate, precision, source.reference)
        wrong = problem(found, source.reference, max_drop=context.recipe.export.max_accuracy_drop)
        if wrong is None:
            metadata = {**source.metadata, "precision": precision, "accuracy": found["accuracy"]}
            exporting.save(
                onnx.load(str(candidate)),
                context.folder / candidate.name,
                metadata=exporting.encode_metadata(metadata),
            )
            found["bytes"] = (context.folder / candidate.name).stat().st_size
        found["params"] = source.metadata["params"]
        tried.append(_Tried(precision, found, wrong))
    return tried


def _candidates(source: _Source, precision: Precision) -> Iterator[Path]:
    """Files that have run, but not passed: the network's, and the one with its preprocessing inside."""
    context, path = source.context, source.reference.source.with_name(exporting.file_name(precision))
    settings = context.recipe.export
    model = exporting.converted(
        onnx.load(str(source.reference.source)),
        precision,
        settings=settings,
        images=lambda: _calibration_images(context),
    )
    exporting.save(model, path, metadata=exporting.encode_metadata(source.metadata))
    exporting.require_runs(path, source.reference.images)
    yield path
    if settings.with_preprocess:
        companion = exporting.preprocess_path(path)
        exporting.write_with_preprocess(path, companion, context.workspace.info.preprocessing)
        yield companion


def _calibration_images(context: StageContext) -> Tensor:
    """Training images as evaluation shows them, not augmented, spread over the split; on the CPU."""
    count = context.recipe.export.calibration_images
    found = context.workspace.dataset.train.ordered(_CALIBRATION_BATCH, limit=count)
    return torch.cat([batch.cpu() for batch, _ in found])


def _delete_old(folder: Path) -> None:
    # Of an attempt that failed: a file there must not be taken for one that passed.
    for old in folder.glob("*.onnx"):
        old.unlink()


def _require_passed(tried: list[_Tried], settings: ExportSettings) -> None:
    failed = [found for found in tried if found.problem]
    if not failed:
        return
    names = list(dict.fromkeys(found.precision for found in failed))
    passed = ", ".join(Path(found.entry["file"]).name for found in tried if not found.problem)
    raise GateError(
        "\n".join(str(found.problem) for found in failed)
        + f"\nNot kept. Ways out: {'; '.join(_ways_out(names, settings))}."
        + (f" Passed: {passed}" if passed else "")
    )


def _ways_out(names: list[Precision], settings: ExportSettings) -> Iterator[str]:
    if "int8" in names and not settings.reduce_range:
        yield "weights of 7 bits (--set export.reduce_range=true)"
    if "int8" in names:
        yield "more images or another method for its calibration (export.calibration_images, .calibration)"
    yield "allow more (--max-accuracy-drop)"
    yield f"leave out {' and '.join(names)} (--precision)"
