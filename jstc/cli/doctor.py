"""`jstc doctor`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["doctor"]


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show versions, processor, GPU and working providers."""
    from jstc.cli import output
    from jstc.pipeline import diagnosis

    facts = diagnosis.facts()
    if json:
        output.document(facts)
        return
    output.table(["", ""], [[key, output.plain(value)] for key, value in facts.items()])
