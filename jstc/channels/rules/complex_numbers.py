"""Complex numbers and Fourier transforms: exact over space, impossible to follow over channels."""

from __future__ import annotations

import numpy as np

from jstc.channels.labelling import Labelling
from jstc.channels.labels import FIXED, Call, Labels
from jstc.channels.rules.registry import rule

__all__: list[str] = []


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _fourier(labelling: Labelling, call: Call) -> Labels:
    """Every position of the dimensions `dim` depends on all of them."""
    dims = {d % call.first.dim() for d in call["dim"]}
    labels = labelling.labels(call.first, acting_on=tuple(dims))
    for dim in dims:
        labelling.freeze(labels[dim], "a Fourier transform over the channels")
    return tuple(np.full(call.out.shape[d], FIXED) if d in dims else ids for d, ids in enumerate(labels))


@rule("view_as_real")
def _as_real(labelling: Labelling, call: Call) -> Labels:
    """[*] complex -> [*, 2]."""
    return (*labelling.labels(call.first), np.full(2, FIXED))


@rule("view_as_complex")
def _as_complex(labelling: Labelling, call: Call) -> Labels:
    """[*, 2] -> [*] complex: a pair of channels can't be told from one."""
    labels = labelling.labels(call.first, acting_on=(-1,))
    labelling.freeze(labels[-1], "channels are the parts of complex numbers")
    return labels[:-1]


@rule("real", "imag", "conj", "_conj", "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view")
def _same(labelling: Labelling, call: Call) -> Labels:
    return labelling.labels(call.first)
