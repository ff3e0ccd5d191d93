"""`jstc models`, `datasets`, `doctor` and `schema`: what there is to name, here and on this machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jstc.cli import options
from jstc.core.numbers import plain

if TYPE_CHECKING:
    from jstc.runs.kernel_table import Row

__all__ = ["datasets", "doctor", "models", "schema"]


def models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the networks that can be named."""
    from jstc import models as networks
    from jstc.cli import console

    entries = networks.names()
    if json:
        console.document([dataclasses.asdict(entry) for entry in entries])
        return
    console.table(["model", "from", ""], [[e.name, e.source, e.description] for e in entries])
    console.note("Also: timm:NAME, hf:ORG/NAME, path/to/file.py:factory, package.module:factory")


def datasets(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the datasets that can be named, and what each needs."""
    from jstc import data
    from jstc.cli import console

    entries = data.catalogue()
    if json:
        console.document([dataclasses.asdict(entry) for entry in entries])
        return
    console.table(["dataset", "", "--data"], [[e.name, e.description, e.where] for e in entries])


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what works on this machine.

    Versions, processor, GPU, onnxruntime's providers, and whether torch computes right here.
    """
    from jstc.cli import console
    from jstc.runs import inspection
    from jstc.runs.kernel_table import kernel_table

    facts, kernels = inspection.facts(), kernel_table()
    if json:
        console.document(facts | {"kernels": kernels})
        return
    console.table(["", ""], [[key, plain(value)] for key, value in facts.items()])
    rows = [
        [row["model"], str(row["image_size"]), row["dtype"], str(row["layers"]), _verdict(row)]
        for row in kernels["rows"]
    ]
    console.table(["network", "pixels", "precision", "kinds of layer", "torch on this CPU"], rows)
    if any(row["wrong"] for row in kernels["rows"]):
        console.note(
            "Nothing need be done about what is wrong there: jstc computes it otherwise, as the table says."
        )


def _verdict(row: Row) -> str:
    if not row["wrong"]:
        return "right"
    parts = sorted({part for one in row["wrong"] for part in one["wrong"]})
    forms = sorted({one["form"] for one in row["wrong"]})
    return f"{len(row['wrong'])} wrong ({', '.join(parts)}): computed in {' or '.join(forms)}"


def schema(debug: options.Debug = False) -> None:
    """Print the JSON schema of recipes, for editors.

    With it they complete keys and mark mistakes while you type.
    """
    from jstc.cli import console
    from jstc.recipe.schema import json_schema

    console.document(json_schema())
