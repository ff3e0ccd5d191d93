"""The version of jstc, apart from everything else so that every layer may name it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
