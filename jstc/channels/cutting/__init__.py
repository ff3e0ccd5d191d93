"""Cutting a network at a plan: smaller layers, attributes, attention, and gates on channels."""
