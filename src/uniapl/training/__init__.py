"""The single-stage loop: `train(config)` makes one run folder, `compare` many of them and a table."""

from uniapl.training.arms import Plan, read_plan
from uniapl.training.comparison import compare
from uniapl.training.run import train

__all__ = ["Plan", "compare", "read_plan", "train"]
