"""`jstc slim`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["slim"]


def slim(
    run: options.Run = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Emit the slim network of RUN, without gates.

    Stages that it needs and that are missing run first.
    """
    from jstc.cli import output

    allowed = options.consent(model, pickle=allow_pickle)
    output.run_stage("slim", run, fresh=fresh, json=json, quiet=quiet, verbose=verbose, consent=allowed)
