"""`jstc datasets`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["datasets"]


def datasets(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the datasets that can be named, and what each needs."""
    import dataclasses

    from jstc import data
    from jstc.cli import output

    entries = data.catalogue()
    if json:
        output.document([dataclasses.asdict(entry) for entry in entries])
        return
    output.table(["dataset", "", "--data"], [[e.name, e.description, e.where] for e in entries])
