"""Group runs into arms (seeds of one setting) and turn their metrics into mean lines with bands."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uniapl.report.reading import Evaluation, Run

MAX_POINTS = 600
"""A longer curve is averaged over neighbouring steps."""
MAX_POINTS_IN_ALL = 6000
"""Of one metric over all arms: a hundred curves need fewer points each."""
FEWEST_POINTS = 40
RECENT_STEPS = 20
"""A curve's first and last values, in figures, are means over so many steps, or over a third of a short run."""

NOT_A_SETTING = ("seed", "output_dir", "training.resume", "training.threads", "training.device")
"""Keys in which runs of one arm may differ."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[Any]:
        """The config's `seed` of every run."""
        return [run.config.get("seed") for run in self.runs]


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean, least and greatest value over an arm's runs; None where no run has a value."""

    steps: list[int]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


def group_arms(runs: Sequence[Run]) -> list[Arm]:
    """Return arms in the order in which their first run was given.

    An arm is named after its method. Where arms share a method the name also carries the one or two
    settings that tell them apart, or the folder if there are more.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        identity = tuple(sorted((key, repr(value)) for key, value in _settings(run).items()))
        groups.setdefault(identity, []).append(run)
    members = [tuple(group) for group in groups.values()]
    names = [_name(group[0], [other[0] for other in members]) for group in members]
    return [Arm(name, group) for name, group in zip(_unique(names), members, strict=True)]


def curve(arm: Arm, metric: str, num_arms: int = 1) -> Curve | None:
    """Return a metric over steps; None if no run of the arm ever has a value of it.

    Args:
        arm: The arm.
        metric: The metric's name.
        num_arms: How many arms the page has: the more, the fewer points each curve keeps.
    """
    values: dict[int, list[float]] = {}
    for run in arm.runs:
        for step, value in zip(run.steps, run.metrics.get(metric, ()), strict=False):
            found = values.setdefault(step, [])
            if value is not None:
                found.append(value)
    if not any(values.values()):
        return None
    steps = sorted(values)
    full = Curve(
        steps=steps,
        mean=[mean(values[step]) for step in steps],
        low=[min(values[step], default=None) for step in steps],
        high=[max(values[step], default=None) for step in steps],
    )
    limit = max(min(MAX_POINTS, FEWEST_POINTS), min(MAX_POINTS, MAX_POINTS_IN_ALL // num_arms))
    return full if len(steps) <= limit else _thinned(full, limit)


def ends(arm: Arm, metric: str) -> dict[str, float | None]:
    """Return the means over the first and the last steps of an arm's runs, and the latter's standard error.

    The error is over the steps, taken for independent; None where there are fewer than two.
    """
    first: list[float] = []
    last: list[float] = []
    for run in arm.runs:
        column = [value for value in run.metrics.get(metric, ()) if value is not None]
        width = max(1, min(RECENT_STEPS, len(column) // 3))
        first += column[:width]
        last += column[-width:]
    centre = mean(last)
    error = None
    if centre is not None and len(last) > 1:
        variance = sum((value - centre) ** 2 for value in last) / (len(last) - 1)
        error = math.sqrt(variance / len(last))
        error = error if error > 1e-9 * abs(centre) else 0.0  # else the rounding of a constant
    return {"first": mean(first), "last": centre, "error": error}


def evaluation_at(run: Run, position: int) -> Evaluation | None:
    """Return the first (0) or last (-1) evaluation; None if the run has none."""
    return run.evaluations[position] if run.evaluations else None


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return sum(values) / len(values) if values else None


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Return every metric that some run has a value of, in the order the runs write them."""
    names: dict[str, None] = {}
    for run in runs:
        for name, column in run.metrics.items():
            if any(value is not None for value in column):
                names[name] = None
    return list(names)


def _thinned(full: Curve, limit: int) -> Curve:
    """Average neighbours so that at most `limit` remain; a point keeps its last step."""
    width = -(-len(full.steps) // limit)
    blocks = [slice(start, start + width) for start in range(0, len(full.steps), width)]

    def averaged(column: list[float | None]) -> list[float | None]:
        return [mean([v for v in column[block] if v is not None]) for block in blocks]

    return Curve(
        steps=[full.steps[block][-1] for block in blocks],
        mean=averaged(full.mean),
        low=averaged(full.low),
        high=averaged(full.high),
    )


def _settings(run: Run) -> dict[str, Any]:
    flat = _flattened(run.config)
    return {key: value for key, value in flat.items() if key not in NOT_A_SETTING}


def _flattened(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _name(run: Run, first_runs: Sequence[Run]) -> str:
    """Name the arm of `run` among arms, each given by its first run."""
    rivals = [other for other in first_runs if other.method == run.method and other is not run]
    if not rivals:
        return run.method
    own, others = _settings(run), [_settings(rival) for rival in rivals]
    differing = [
        key
        for key in dict.fromkeys([*own, *(key for other in others for key in other)])
        if any(other.get(key) != own.get(key) for other in others)
    ]
    if len(differing) > 2:
        return f"{run.method} ({run.folder.resolve().name})"
    told = ", ".join(f"{key.rpartition('.')[2]} {_brief(own.get(key))}" for key in differing)
    return f"{run.method} ({told})"


def _brief(value: object) -> str:
    text = os.path.basename(value.rstrip("/")) if isinstance(value, str) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return unique
