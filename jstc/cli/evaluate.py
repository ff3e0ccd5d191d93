"""`jstc eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli import options

if TYPE_CHECKING:
    from jstc.runs.evaluation import Evaluation

__all__ = ["evaluate"]


Target = Annotated[
    Path | None,
    typer.Argument(metavar="RUN | MODEL.onnx", help="A run (default: the newest), or an ONNX file."),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="A dataset; default: the run's own.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0: onnxruntime's own choice.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only so many images, spread over the split.")
]


def evaluate(
    target: Target = None,
    dataset: Dataset = None,
    data: options.Data = None,
    provider: options.AnyProvider = None,
    threads: Threads = 0,
    limit: Limit = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Score the ONNX file of a RUN, or another, on the test split."""
    from jstc.cli import console
    from jstc.core import progress_view
    from jstc.runs import directory, evaluation

    path = target or directory.newest_run(say=console.note)
    chosen = provider or options.ProviderName.auto
    with progress_view.shown(quiet=quiet or json, verbose=False) as shown:
        result = evaluation.evaluate(
            path,
            dataset=dataset,
            data=data,
            provider=chosen.value,
            threads=threads,
            limit=limit,
            progress=shown,
        )
    if json:
        console.document(result)
    else:
        console.table(["", ""], _rows(result))


def _rows(result: Evaluation) -> list[list[str]]:
    images, split = result["images"], result["images_in_split"]
    low, high = result["accuracy_interval"]
    rows = {
        "file": result["file"],
        "dataset": f"{result['dataset']}, {result['split']} split",
        "images": f"{images:,}" if images == split else f"{images:,} of {split:,}",
        "accuracy": f"{100 * result['accuracy']:.2f} %",
        "95 % interval": f"{100 * low:.2f} to {100 * high:.2f} %",
        "top-5": None if result["top5_accuracy"] is None else f"{100 * result['top5_accuracy']:.2f} %",
        "provider": result["provider"] + (f", {result['threads']} threads" if result["threads"] else ""),
        "batch": None if result["batch"] is None else f"{result['batch']}, fixed by the file",
        "seconds": f"{result['seconds']:.1f}",
    }
    notes = [["note", note] for note in result["notes"]]
    return [[key, value] for key, value in rows.items() if value is not None] + notes
