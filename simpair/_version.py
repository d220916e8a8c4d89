"""The version of simpair, written once."""

__version__ = "0.1.0"
