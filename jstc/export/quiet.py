"""Libraries that talk: what they print, log and warn is kept from the user."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep what is printed, logged and warned in the block from the user; what was printed is yielded."""
    said = io.StringIO()
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # `logging.warning` gives the root logger one
