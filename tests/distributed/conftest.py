"""Tests here train tiny runs."""

from tiny_runs import tiny

__all__ = ["tiny"]
