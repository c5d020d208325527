"""Memory, tokens and work of a run before it starts, by rehearsing its step."""

from uniapl.planning.plan import RunPlan, here, plan_run
from uniapl.planning.text import check_fits, plan_lines

__all__ = ["RunPlan", "check_fits", "here", "plan_lines", "plan_run"]
