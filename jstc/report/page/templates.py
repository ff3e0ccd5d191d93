"""The templates of the page, in which every text is escaped."""

from __future__ import annotations

import functools
import re

import jinja2
from markupsafe import Markup, escape

from jstc.report import figures, tables
from jstc.report.budgets import amount
from jstc.report.page import speed
from jstc.report.pictures import widths

__all__ = ["environment"]

_FIGURES = ("bytesize", "count", "duration", "milliseconds", "percent", "points", "ratio", "share", "tiny")
_STRONG = re.compile(r"\*\*(.+?)\*\*")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_POWER = re.compile(r"\b(\d(?:\.\d)?)e([+-]\d\d)\b")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]|[kMG]B|bytes|ms|s|min|h|points)(?!\w))|(?<=batch) (?=\d)")
_TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the filters that write figures."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("jstc.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    found.filters |= {name: getattr(figures, name) for name in _FIGURES}
    found.filters |= {"strong": _strong, "typed": _typed, "percents": _percents, "place": _place}
    found.filters |= {"stays": widths.stays, "costs": widths.costs, "amount": amount}
    found.globals |= {"ideal_share": tables.ideal_share, "columns": speed.columns}
    return found


def _strong(text: str) -> Markup:
    """`**so**` in bold."""
    return Markup(_STRONG.sub(r"<strong>\1</strong>", str(escape(_typed(text)))))


def _typed(text: str) -> str:
    """Figures as they are printed: a minus is no hyphen, a unit stays with its number, 4.2e-06 is a power."""
    text = _POWER.sub(lambda found: f"{found[1]}{_TIMES}10{_raised(found[2])}", text)
    return _UNIT.sub("\N{NO-BREAK SPACE}", _MINUS.sub("\N{MINUS SIGN}", text))


def _raised(exponent: str) -> str:
    return str(int(exponent)).translate(_RAISED)


def _percents(value: float) -> str:
    """A place in a picture, in percent of its width: 0.499 -> `49.90%`."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _place(value: float) -> str:
    """What is in percent already."""
    return _percents(value / 100)
