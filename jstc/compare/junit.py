"""JUnit XML: a test case for every gate, as GitLab, Jenkins and others show them."""

from __future__ import annotations

from xml.etree import ElementTree

from jstc.compare.comparison import Comparison
from jstc.compare.gates import Gate
from jstc.compare.tables import headline, line, title

__all__ = ["junit"]

_SKIPPED = ("not comparable", "new", "off")


def junit(comparison: Comparison) -> bytes:
    """The document, in UTF-8."""
    gates = comparison.gates
    counts = {
        "tests": len(gates),
        "failures": len(comparison.failures),
        "errors": 0,
        "skipped": sum(gate.verdict in _SKIPPED for gate in gates),
    }
    attributes = {"name": "jstc compare", **{name: str(count) for name, count in counts.items()}}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for gate in gates:
        suite.append(_case(gate))
    output = ElementTree.SubElement(suite, "system-out")
    output.text = f"base: {comparison.base}\nnew: {comparison.new}\n{headline(comparison)}\n"
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _case(gate: Gate) -> ElementTree.Element:
    group = f"jstc.compare.{gate.budget}" if gate.budget else "jstc.compare"
    case = ElementTree.Element(
        "testcase", {"classname": group, "name": title(gate, with_budget=False), "time": "0"}
    )
    if gate.verdict == "fails":
        ElementTree.SubElement(case, "failure", {"type": gate.kind, "message": line(gate)}).text = line(gate)
    elif gate.verdict in _SKIPPED:
        ElementTree.SubElement(case, "skipped", {"message": gate.reason or gate.verdict})
    else:
        ElementTree.SubElement(case, "system-out").text = f"{gate.verdict}: {line(gate)}"
    return case
