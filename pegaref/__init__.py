"""A small GPU-server control plane that cannot go dark: every GPU call lives behind an actor."""

__version__ = "0.1.0"

__all__ = ["__version__"]
