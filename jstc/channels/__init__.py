"""Which channels of a network belong together, and how to cut them."""

from jstc.channels.channel_map import ChannelMap, analyse
from jstc.channels.cost import Cost
from jstc.channels.custom import Call, Labels, Tracing, rule
from jstc.channels.gates import GatedNetwork, fold
from jstc.channels.groups import Frozen, Group

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
