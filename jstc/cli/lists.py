"""`jstc models`, `datasets`, `doctor` and `schema`: what there is to name, here and on this machine."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["datasets", "doctor", "models", "schema"]


def models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the networks that can be named."""
    import dataclasses

    from jstc import models as networks
    from jstc.cli import results

    entries = networks.names()
    if json:
        results.document([dataclasses.asdict(entry) for entry in entries])
        return
    results.table(["model", "from", ""], [[e.name, e.source, e.description] for e in entries])
    results.note("Also: timm:NAME, path/to/file.py:factory, package.module:factory")


def datasets(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the datasets that can be named, and what each needs."""
    import dataclasses

    from jstc import data
    from jstc.cli import results

    entries = data.catalogue()
    if json:
        results.document([dataclasses.asdict(entry) for entry in entries])
        return
    results.table(["dataset", "", "--data"], [[e.name, e.description, e.where] for e in entries])


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show versions, processor, GPU and working providers."""
    from jstc.cli import results
    from jstc.runs import inspection

    facts = inspection.facts()
    if json:
        results.document(facts)
        return
    results.table(["", ""], [[key, results.plain(value)] for key, value in facts.items()])


def schema(debug: options.Debug = False) -> None:
    """Print the JSON schema of recipes, for editors that check as you type."""
    from jstc.cli import results
    from jstc.recipe.schema import json_schema

    results.document(json_schema())
