"""The gates as people read them: on a terminal, in a pull request, in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from jstc.core import numbers
from jstc.core.accuracy import Accuracy, difference
from jstc.core.safe_text import one_line
from jstc.gate.comparison import GateReport
from jstc.gate.gates import DROPS, Gate

__all__ = ["HEADER", "headline", "junit", "line", "markdown", "remarks", "rows", "title", "workflow_commands"]

HEADER = ("gate", "base", "new", "change", "limit", "verdict")

_NAMES = {
    "flops": "FLOPs",
    "params": "parameters",
    "max_abs_diff": "max difference",
    "top1_agreement": "top-1 agreement",
}
_FACTOR_FROM = 10.0  # a change of +41,846 % is easier read as 419x


def title(gate: Gate, *, with_budget: bool = True) -> str:
    """The name of a gate: `accuracy, int8`."""
    text = f"{_NAMES.get(gate.kind, gate.kind)}, {gate.of}"
    return one_line(f"{gate.budget}: {text}" if gate.budget and with_budget else text)


def rows(gates: Sequence[Gate], *, with_budget: bool = True) -> list[list[str]]:
    """A row of texts for every gate, under `HEADER`."""
    return [
        [title(gate, with_budget=with_budget), *_figures(gate), _change(gate), _limit(gate), gate.verdict]
        for gate in gates
    ]


def headline(report: GateReport) -> str:
    """The outcome in one line."""
    counted = sum(gate.verdict in ("ok", "fails", "unclear") for gate in report.gates)
    if report.failures:
        return f"{len(report.failures)} of {counted} gates say no"
    unclear = sum(gate.verdict == "unclear" for gate in report.gates)
    return f"all {counted} gates passed" + (f", {unclear} of them unclear" if unclear else "")


def line(gate: Gate) -> str:
    """The gate with its figures and its reason: `accuracy, int8: 98.00 % -> 96.00 %, -2.00 points (...)`."""
    parts = []
    if gate.base is not None and gate.new is not None:
        parts.append(" -> ".join(_figures(gate)))
    if gate.change is not None:
        points = " points" if gate.kind in DROPS else ""
        limit = f" (limit {_limit(gate)})" if gate.limit is not None else ""
        parts.append(_change(gate) + points + limit)
    if gate.reason:
        parts.append(gate.reason)
    return one_line(f"{title(gate)}: {', '.join(parts) or gate.verdict}")


def remarks(report: GateReport) -> list[str]:
    """Reasons that the table does not show: why a gate was unclear, not comparable, or passed after all."""
    told = [gate for gate in report.gates if gate.reason and gate.verdict != "fails"]
    # The interval of what is fast enough for certain is in the JSON, for those who want it.
    told = [gate for gate in told if (gate.kind, gate.verdict) != ("latency", "ok")]
    return [f"{gate.verdict}: {line(gate)}" for gate in told] + list(map(one_line, report.notes))


def markdown(report: GateReport) -> str:
    """A section for a pull request or a job summary."""
    lines = [f"### jstc compare: {headline(report)}", ""]
    lines += [f"Base: `{_code(report.base)}`  ", f"New: `{_code(report.new)}`", ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|---|---:|---:|---:|---:|---|"]
    for cells in rows(report.gates):
        if cells[-1] == "fails":
            cells[0], cells[-1] = f"**{cells[0]}**", "**fails**"
        lines.append("| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |")
    told = [f"fails: {line(gate)}" for gate in report.failures] + remarks(report)
    if told:
        lines += ["", *(f"- {_plain(text)}" for text in told)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, and not as HTML, a link or a picture."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def figure(gate: Gate, value: float | None) -> str:
    """A figure of the gate, in the unit that people use for it."""
    if value is None:
        return numbers.UNKNOWN
    if gate.kind in DROPS:
        return numbers.percent(value)
    if gate.kind == "latency":
        return numbers.ratio(value) if gate.unit == "x" else numbers.milliseconds(value)
    if gate.kind == "max_abs_diff":
        return numbers.tiny(value)
    scaled = numbers.bytesize if gate.kind == "bytes" else numbers.count
    return scaled(value, digits=4)


def _figures(gate: Gate) -> tuple[str, str]:
    counted = gate.counted
    if counted is None or gate.base is None or gate.new is None:
        return figure(gate, gate.base), figure(gate, gate.new)
    # With the sampling error of the images that they were counted on.
    return Accuracy(gate.base, counted.base_images).text, Accuracy(gate.new, counted.new_images).text


def _change(gate: Gate) -> str:
    if gate.change is None:
        return "-"
    if gate.kind in DROPS:
        return _beside_limit(gate, 3).removesuffix("0") + _error(gate)  # -0.501 is beyond a limit of 0.5
    if gate.change >= _FACTOR_FROM:
        return f"{1 + gate.change:,.0f}x"
    return f"{_beside_limit(gate, 1)} %"


def _beside_limit(gate: Gate, digits: int) -> str:
    """The change in percent or points, so that one beyond its limit does not read like the limit."""
    change, limit = 100 * (gate.change or 0.0), 100 * (gate.limit or 0.0)
    if gate.verdict != "fails":
        return f"{change:+.{digits}f}"
    return numbers.unlike(change, -limit if gate.kind in DROPS else limit, "{:+.{}f}".format, digits)


def _error(gate: Gate) -> str:
    """The sampling error of a change of a share, in points."""
    counted = gate.counted
    if counted is None or gate.base is None or gate.new is None:
        return ""
    found = difference(Accuracy(gate.new, counted.new_images), Accuracy(gate.base, counted.base_images))
    return "" if found.error is None else f" ±{100 * found.error:.2g}"


def _limit(gate: Gate) -> str:
    if gate.limit is None:
        return "-"
    return f"{-100 * gate.limit:g}" if gate.kind in DROPS else f"+{100 * gate.limit:g} %"


# JUnit XML: a test case for every gate, as GitLab, Jenkins and others show them.

_SKIPPED = ("not comparable", "new", "off")


def junit(report: GateReport) -> bytes:
    """The document, in UTF-8."""
    gates = report.gates
    counts = {
        "tests": len(gates),
        "failures": len(report.failures),
        "errors": 0,
        "skipped": sum(gate.verdict in _SKIPPED for gate in gates),
    }
    attributes = {"name": "jstc compare", **{name: str(count) for name, count in counts.items()}}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for gate in gates:
        suite.append(_case(gate))
    output = ElementTree.SubElement(suite, "system-out")
    output.text = f"base: {one_line(report.base)}\nnew: {one_line(report.new)}\n{headline(report)}\n"
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _case(gate: Gate) -> ElementTree.Element:
    group = one_line(f"jstc.compare.{gate.budget}") if gate.budget else "jstc.compare"
    case = ElementTree.Element(
        "testcase", {"classname": group, "name": title(gate, with_budget=False), "time": "0"}
    )
    if gate.verdict == "fails":
        ElementTree.SubElement(case, "failure", {"type": gate.kind, "message": line(gate)}).text = line(gate)
    elif gate.verdict in _SKIPPED:
        ElementTree.SubElement(case, "skipped", {"message": one_line(gate.reason or gate.verdict)})
    else:
        ElementTree.SubElement(case, "system-out").text = f"{gate.verdict}: {line(gate)}"
    return case


# Lines that GitHub Actions shows at the top of a run and on the pull request.


def workflow_commands(report: GateReport) -> list[str]:
    """An error for every gate that fails, a warning for one that looks like it and is not certain."""
    found = [(_level(gate), gate) for gate in report.gates]
    return [f"::{level} title=jstc compare::{_escaped(line(gate))}" for level, gate in found if level]


def _level(gate: Gate) -> str | None:
    if gate.verdict == "fails":
        return "error"
    worse = (gate.change or 0.0) * (-1 if gate.kind in DROPS else 1)
    return "warning" if gate.verdict == "unclear" and worse > (gate.limit or 0.0) else None


def _escaped(text: str) -> str:
    # As the runner reads them back; a bare % or line end would be taken for its own.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
