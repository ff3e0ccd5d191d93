"""The network run once with labelled channels: which operation passes which channel on."""
