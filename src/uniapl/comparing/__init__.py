"""Comparisons: `compare` trains arms on one budget and reports with intervals."""

from uniapl.comparing.arms import Plan, read_plan
from uniapl.comparing.comparison import compare

__all__ = ["Plan", "compare", "read_plan"]
