"""`jstc models`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["models"]


def models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the networks that can be named."""
    import dataclasses

    from jstc import models as networks
    from jstc.cli import output

    entries = networks.names()
    if json:
        output.document([dataclasses.asdict(entry) for entry in entries])
        return
    output.table(["model", "from", ""], [[e.name, e.source, e.description] for e in entries])
    output.note("Also: timm:NAME, path/to/file.py:factory, package.module:factory")
