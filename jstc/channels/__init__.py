"""Which channels of a network belong together, and how to cut them."""

from jstc.channels.channel_map import ChannelMap, analyse
from jstc.channels.cost import Cost
from jstc.channels.cutting.channel_gates import GatedNetwork, fold
from jstc.channels.groups import Frozen, Group
from jstc.channels.rules.custom import Call, Labels, Tracing, rule

__all__ = [
    "Call",
    "ChannelMap",
    "Cost",
    "Frozen",
    "GatedNetwork",
    "Group",
    "Labels",
    "Tracing",
    "analyse",
    "fold",
    "rule",
]
