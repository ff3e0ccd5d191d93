"""MODEL_CARD.md: what somebody who is handed only the ONNX file has to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jstc.recipe import Recipe

__all__ = ["model_card"]

_MAX_LABELS = 20


def model_card(metadata: Mapping[str, Any], recipe: Recipe, *, parity: float) -> str:
    """The card as Markdown; `metadata` is what the file itself carries, decoded."""
    channels, height, width = metadata["input_size"]
    metric, amount = recipe.budget
    rows = {
        "Task": f"image classification, {len(metadata['labels'])} classes",
        "Network": f"{recipe.model}, channels removed by joint search-and-training",
        "Data": recipe.dataset,
        "Budget asked for": f"{metric} {amount:g}",
        "FLOPs": f"{metadata['flops']:,} (one multiply-add is one FLOP)",
        "Parameters": f"{metadata['params']:,}",
        "Top-1 accuracy": f"{metadata['accuracy']:.4f} on the test split of {recipe.dataset}",
        "Largest difference to torch": f"{parity:.2g} in the logits",
        "Seed": str(recipe.seed),
        "Made with": f"jstc {metadata['jstc_version']}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {recipe.model} for {recipe.dataset}

| | |
|---|---|
{table}

## Input

`images`: float32 [batch, {channels}, {height}, {width}], RGB where there are three channels. A pixel value x
in [0, 1] of channel c goes in as `(x - mean[c]) / std[c]`, with

- mean {_numbers(metadata["mean"])}
- std {_numbers(metadata["std"])}

## Output

`logits`: float32 [batch, {len(metadata["labels"])}]; the largest one is the answer. The classes, in order,
are in `labels.txt`: {_labels(metadata["labels"])}.

## Limits

The accuracy is that of one run on the data named above. On other images, above all on classes that were not
among the training data, the network still answers with one of its classes. The licence of the training data
applies.
"""


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _labels(labels: list[str]) -> str:
    shown = ", ".join(labels[:_MAX_LABELS])
    return shown if len(labels) <= _MAX_LABELS else f"{shown} and {len(labels) - _MAX_LABELS} more"
