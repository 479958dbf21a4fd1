"""Serve D-PACE drafters inside the engine and see their acceptance by position."""

__version__ = "0.1.0"
