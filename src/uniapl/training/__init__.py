"""The single-stage loop: `train(config)` makes one run folder, `compare` many of them and a table."""

from uniapl.training.arms import Plan, read_plan
from uniapl.training.comparison import compare
from uniapl.training.plan import RunPlan, plan_run
from uniapl.training.plan_text import plan_lines
from uniapl.training.run import train

__all__ = ["Plan", "RunPlan", "compare", "plan_lines", "plan_run", "read_plan", "train"]
