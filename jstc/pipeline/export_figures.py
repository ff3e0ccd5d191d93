"""What an exported file is worth: its accuracy on the test split and its agreement with torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc.pipeline.context import StageContext
from jstc.recipe import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from jstc.export import Score
    from jstc.ort import Provider

__all__ = ["Reference", "figures", "problem"]


@dataclass(frozen=True)
class Reference:
    """The slim network in torch and in `source`, a float32 file; what every file is compared with.

    `images` [N, C, H, W] are those for parity, `accuracy` that of torch on the whole test split.
    """

    network: nn.Module
    source: Path
    images: Tensor
    accuracy: float


def figures(context: StageContext, path: Path, precision: Precision, reference: Reference) -> dict[str, Any]:
    """The entry of the file at `path` in the stage's result, without what depends on its last bytes."""
    from jstc import export as exporting

    provider = _provider(precision)
    found = _scored(context, path, provider)
    whole = path == exporting.preprocess_path(path.with_name(exporting.file_name(precision)))
    compare = exporting.parity_of_answers if whole else exporting.parity
    alike = compare(reference.network, path, reference.images)
    return {
        "file": f"{context.folder.name}/{path.name}",
        "precision": precision,
        **({"preprocess": True} if whole else {}),
        "accuracy": found.accuracy,
        "accuracy_provider": provider,
        "undefined": found.undefined,
        "max_abs_diff": alike.max_abs_diff,
        "top1_agreement": alike.top1_agreement,
        **_range(precision, reference),
        "batch": context.recipe.export.batch,
    }


def problem(entry: dict[str, Any], reference: Reference, *, max_drop: float) -> str | None:
    """Why a file with these figures must not be kept, if so."""
    from jstc import export as exporting

    file = Path(entry["file"]).name
    lost = exporting.accuracy_problem(
        file, accuracy=entry["accuracy"], reference=reference.accuracy, max_drop=max_drop
    )
    largest = entry.get("largest_activation", 0.0)
    if largest > exporting.LARGEST_HALF:
        return f"{file}: activations reach {largest:.3g}, and float16 ends at {exporting.LARGEST_HALF:g}"
    if entry["undefined"] or not math.isfinite(entry["max_abs_diff"]):
        remark = f"the logits of {entry['undefined']} test images are infinite or undefined"
        return f"{lost}; {remark}" if lost else f"{file}: {remark}"
    return lost


def _range(precision: Precision, reference: Reference) -> dict[str, float]:
    # The CPU computes most of fp16 in float32 and would not overflow where other hardware does.
    import onnx

    from jstc import export as exporting

    if precision != "fp16":
        return {}
    model = onnx.load(str(reference.source))
    return {"largest_activation": exporting.largest_activation(model, reference.images)}


def _provider(precision: Precision) -> Provider:
    # Half precision is judged where it is computed, if it can be here; the CPU mostly uses float32 for it.
    from jstc import ort

    return ort.resolve("auto") if precision == "fp16" else "cpu"


def _scored(context: StageContext, path: Path, provider: Provider) -> Score:
    """The answers on the whole test split, shown as progress."""
    from jstc import export as exporting
    from jstc.train.batches import counted

    workspace, batch_size = context.workspace, context.recipe.train.batch_size
    shown = "export " + path.name.removeprefix("model.").removesuffix("onnx").rstrip(".")
    batches = counted(workspace.dataset.test, batch_size, progress=context.progress, stage=shown.strip())
    classes = workspace.info.num_classes
    opened = exporting.open_classifier(path, provider=provider, num_classes=classes)
    return exporting.score(opened, batches, num_classes=classes)
