"""How channel ids pass through each ATen operation.

A rule is a function of the trace (`jstc.channels.trace.state`) and the executed call. It returns the
labels of the output, or a list of them for several outputs. `rule` registers one:

    @rule("narrow", "select")
    def _narrowed(trace, call): ...

For operations of one's own there is `jstc.rule` (`custom_rule`, docs/channels.md).
"""

from jstc.channels.rules import (  # noqa: F401  registers the rules
    arithmetic,
    convolution,
    indexing,
    layers,
    products,
    shapes,
)
from jstc.channels.rules.registry import find, rule

__all__ = ["find", "rule"]
