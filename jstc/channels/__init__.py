"""Channels that belong together, what they cost, and how to cut them: `analyse` gives a `ChannelMap`.

`trace` runs the forward with labelled channels, `rules` pass the labels through its operations, `groups`
connects them, `proof` tries cuts by `replay`, `cutting` makes sub-networks, `cost` and `budget` count them.
"""

from jstc.channels.analysis import analyse
from jstc.channels.channel_map import ChannelMap
from jstc.channels.cost import Cost
from jstc.channels.cutting.channel_gates import GatedNetwork, fold
from jstc.channels.groups import Frozen, Group
from jstc.channels.rules.registry import Tracing
from jstc.channels.rules.registry import custom_rule as rule
from jstc.channels.slim_network import Slim, rebuild
from jstc.channels.trace.ids import Call, Labels

__all__ = [
    "Call",
    "ChannelMap",
    "Cost",
    "Frozen",
    "GatedNetwork",
    "Group",
    "Labels",
    "Slim",
    "Tracing",
    "analyse",
    "fold",
    "rebuild",
    "rule",
]
