"""How channel ids pass through each ATen operation.

A rule is a function of the trace (`jstc.channels.trace.state`) and the executed call. It returns the
labels of the output, or a list of them for several outputs. `rule` registers one; that is also how a
project adds its own operation:

    @rule("mylib::swap_halves")
    def _(trace, call): ...
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
