"""`jstc finetune`."""

from __future__ import annotations

from jstc.cli import options

__all__ = ["finetune"]


def finetune(
    run: options.Run = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Train the chosen sub-network of a searched RUN.

    Of several budgets, that of each.
    """
    from jstc.cli import output

    allowed = options.consent(model, pickle=allow_pickle)
    output.run_stage("finetune", run, fresh=fresh, json=json, quiet=quiet, verbose=verbose, consent=allowed)
