"""Memory, tokens and work of a run before it starts, by rehearsing its step."""

from uniapl.planning.plan import RunPlan, plan_run
from uniapl.planning.text import plan_lines

__all__ = ["RunPlan", "plan_lines", "plan_run"]
