"""The distribution and the version of jstc, apart from everything else so that every layer may name them."""

__all__ = ["DISTRIBUTION", "__version__", "install_command"]

__version__ = "0.1.0"

DISTRIBUTION = "joint-search-training"
"""The distribution that is called jstc is somebody else's."""


def install_command(extra: str) -> str:
    """The command that installs what an optional part needs, also for a jstc that came from a checkout."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
