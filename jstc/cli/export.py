"""`jstc export`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["export"]


def export(
    run: options.Run = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Write the slim network of RUN as ONNX, and verify it.

    Stages that it needs and that are missing run first.
    """
    from jstc.cli import output

    output.run_stage("export", run, fresh=fresh, json=json, quiet=quiet, verbose=verbose)
