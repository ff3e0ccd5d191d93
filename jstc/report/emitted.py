"""Findings on the emitted network: is it the trained one, how well does float32 hold it, is all of it used?

What passed and what did not was judged by the stages, and its limits stand in their results.
"""

from __future__ import annotations

from collections.abc import Iterator

from jstc.core import numbers
from jstc.core.numbers import count, share
from jstc.report.finding import Finding
from jstc.summary import OnnxFile, Summary

__all__ = ["emitted_findings"]

_FOLD_LIMIT = 1e-5  # of results without a limit
_WORTH_A_WORD = 0.01
_MUCH = 0.25


def emitted_findings(summary: Summary) -> Iterator[Finding]:
    """Findings on folding, rounding, weights that no image reaches, and parity of the float32 file."""
    slim = summary.slim
    fold, limit = slim.max_abs_diff_fold, slim.max_abs_diff_fold_limit
    if fold is not None and fold > (_FOLD_LIMIT if limit is None else limit):
        told = f"Folding the gates changed the logits by up to {fold:.1g}."
        yield Finding("Folding", "warn", told, note=True)
    yield from _rounding(summary)
    yield from _unreached(summary)
    for file in summary.files:
        # Of the file whose arithmetic is torch's own.
        if file.precision == "fp32" and file.max_abs_diff is not None:
            yield _parity(file, file.max_abs_diff)


def _rounding(summary: Summary) -> Iterator[Finding]:
    found = summary.slim.rounding
    if found is None or not found.ill_conditioned:
        return
    told = (
        f"The network is ill-conditioned: rounding in float32 moves logits of up to {found.largest:.3g} "
        f"by up to {found.error:.1g} (beside float64), and files and machines may differ by as much."
    )
    if found.norm is not None and found.gain is not None and found.variance is not None:
        told += (
            f" Of its batch norms {found.norm} magnifies most: {found.gain:.3g} times, with a running "
            f"variance of {found.variance:.1g}."
        )
    yield Finding("Rounding", "warn", told, note=True)


def _unreached(summary: Summary) -> Iterator[Finding]:
    found = summary.slim.unreached
    if found is None or found.share < _WORTH_A_WORD:
        return
    size = "x".join(map(str, found.image_size))
    part = share(found.weights, summary.slim.params)
    told = (
        f"At {size} pixels {part} of the weights ({count(found.weights)}) see only padding and do "
        f"nothing: kernels wider than their maps, in {len(found.layers)} layers"
    )
    told += f" from {found.layers[0]} on" if found.layers else ""
    told += "; a larger input.image_size or a smaller network would use them."
    yield Finding("Unused weights", "warn" if found.share >= _MUCH else "neutral", told, note=True)


def _parity(file: OnnxFile, difference: float) -> Finding:
    limit = file.max_abs_diff_limit
    passed = limit is None or difference <= limit  # without one it was judged by its stage, and is there
    allowed = "" if limit is None else f" ({numbers.tiny(limit)} allowed)"
    told = f"Logits of the fp32 file are within {numbers.tiny(difference)} of torch's{allowed}."
    return Finding("Parity", "good" if passed else "bad", told, "same" if passed else "differs")
