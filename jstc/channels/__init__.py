"""Which channels of a network belong together, and how to cut them."""

from jstc.channels.channel_map import ChannelMap, analyse
from jstc.channels.cost import Cost
from jstc.channels.gates import GatedNetwork, fold
from jstc.channels.groups import Frozen, Group
from jstc.channels.rules import rule

__all__ = ["ChannelMap", "Cost", "Frozen", "GatedNetwork", "Group", "analyse", "fold", "rule"]
