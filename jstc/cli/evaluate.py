"""`jstc eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options

__all__ = ["evaluate"]


def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="RUN | MODEL.onnx", help="A run (default: the newest), or an ONNX file."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="A dataset; default: the run's own.")
    ] = None,
    data: options.Data = None,
    provider: options.Provider = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Accuracy of an ONNX file on a dataset's test split."""
    from jstc.cli import output
    from jstc.pipeline import evaluation

    path = options.run_or_newest(target)
    chosen = provider or options.ProviderName.auto
    result = evaluation.evaluate(path, dataset=dataset, data=data, provider=chosen.value)
    if json:
        output.document(result)
        return
    output.table(["", ""], [[key, output.figure(key, value)] for key, value in result.items()])
