"""What the evaluations say: values before and after with their errors, and how to write them.

Numbers come from `results.json`; texts for the template and plain lists for the charts go out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uniapl.health import student_factor
from uniapl.known_metrics import BETTER, FEWEST_SEEDS, KNOWN, Direction, direction_of, is_sure
from uniapl.report.arms import Arm, evaluation_at, mean
from uniapl.report.reading import Evaluation, Run, setting

MINUS = "−"

NORMAL_95 = 1.96
"""Standard errors of a 95 % interval over many prompts."""

NOT_METRICS = ("n", "step", "num_missing", "expert_completion_tokens_mean")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and, where it is known, its standard error."""

    value: float
    stderr: float | None = None
    factor: float = NORMAL_95
    """Half a 95 % interval, in standard errors."""

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval."""
        return None if self.stderr is None else self.value - self.factor * self.stderr

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return None if self.stderr is None else self.value + self.factor * self.stderr


@dataclass(frozen=True, slots=True)
class EvaluationMetric:
    """One row of the results table."""

    name: str
    label: str
    meaning: str
    unit: str
    direction: Direction

    @property
    def is_fraction(self) -> bool:
        """Whether it is written as a percentage, and its differences in points."""
        return self.unit == "%"

    @property
    def better(self) -> str:
        """The direction in words."""
        return BETTER[self.direction]

    def written(self, value: float | None) -> str:
        """Return a value as text, without its unit."""
        return "–" if value is None else number_text(self._scaled(value), self._digits(value))

    def with_unit(self, value: float) -> str:
        """Return a value as text with its unit."""
        return f"{self.written(value)} {self.unit}".rstrip()

    def signed(self, value: float) -> str:
        """Return a difference as text with its sign, without its unit."""
        text = self.written(value)
        return f"+{text}" if value > 0 and _is_nonzero(text) else text

    def error(self, measured: Measured | None) -> str:
        """Return `± error`, empty where the error is unknown or the formula gives none (0 % or 100 %)."""
        if measured is None or not measured.stderr:
            return ""
        text = number_text(self._scaled(measured.stderr), self._digits(measured.value))
        return f"± {text}" if _is_nonzero(text) else f"± <{text[:-1]}1"

    def interval(self, low: float, high: float, *, is_difference: bool = False) -> str:
        """Return `low to high`."""
        write = self.signed if is_difference else self.written
        return f"{write(low)} to {write(high)}"

    def verdict(self, low: float | None, high: float | None, num_seeds: int = FEWEST_SEEDS) -> str:
        """Return what the 95 % interval of a difference says.

        Args:
            low: Its lower end; None if it is unknown.
            high: Its upper end.
            num_seeds: How many seeds it is over, where arms are compared: a few say nothing.

        Returns:
            `better`, `worse` or `cannot tell`; empty where the metric has no better side.
        """
        if self.direction == "neither":
            return ""
        if low is None or not is_sure(low, high, num_seeds):
            return "cannot tell"
        return "better" if (low > 0) == (self.direction == "higher") else "worse"

    def change(self, found: Measured | None, num_seeds: int = FEWEST_SEEDS) -> dict[str, str]:
        """Return text, error and verdict of a difference."""
        if found is None:
            return {"text": "–", "error": "", "verdict": ""}
        verdict = self.verdict(found.low, found.high, num_seeds)
        return {"text": self.signed(found.value), "error": self.error(found), "verdict": verdict}

    def _scaled(self, value: float) -> float:
        return value * 100 if self.is_fraction else value

    def _digits(self, value: float) -> int:
        if self.is_fraction:
            return 1
        return 2 if abs(value) < 10 and self.unit != "tokens" else 1


def _is_nonzero(text: str) -> bool:
    return any(character in "123456789" for character in text)


def number_text(value: float, digits: int) -> str:
    """Return a number with fixed digits, thousands set apart and a true minus sign."""
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    if text.startswith("-"):
        text = MINUS + text[1:] if _is_nonzero(text) else text[1:]
    return text


def evaluation_metrics(
    arms: Sequence[Arm], definitions: Mapping[str, str]
) -> list[EvaluationMetric]:
    """Return every metric of the evaluations: the known names first, then the run's own.

    A metric of the run's own is a fraction, and better when higher, if all its values lie in [0, 1] and its
    meaning does not say that lower is better.
    """
    values: dict[str, list[float]] = {}
    for arm in arms:
        for run in arm.runs:
            for evaluation in run.evaluations:
                for name, value in metric_values(evaluation.results).items():
                    values.setdefault(name, []).append(value)
    return described_metrics(values, definitions)


def described_metrics(
    values: Mapping[str, Sequence[float]], definitions: Mapping[str, str]
) -> list[EvaluationMetric]:
    """Return the metrics that have values, in the order of `evaluation_metrics`."""
    ordered = [name for name in KNOWN if name in values and name.endswith("_acc")]
    ordered += [name for name in values if name not in KNOWN]
    ordered += [name for name in KNOWN if name in values and not name.endswith("_acc")]
    return [_described(name, values[name], definitions) for name in ordered]


def _described(
    name: str, values: Sequence[float], definitions: Mapping[str, str]
) -> EvaluationMetric:
    if known := KNOWN.get(name):
        return EvaluationMetric(name, known.label, known.meaning, known.unit, known.direction)
    meaning, is_fraction = definitions.get(name, ""), all(0 <= value <= 1 for value in values)
    direction = direction_of(name, meaning, is_fraction=is_fraction)
    label = name.replace("_", " ").capitalize()
    return EvaluationMetric(name, label, meaning, "%" if is_fraction else "", direction)


def metric_values(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers at the top level of `results.json` that are metrics."""
    return {
        name: float(value)
        for name, value in results.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in NOT_METRICS
        and not name.endswith("_stderr")
    }


def measured(evaluation: Evaluation | None, name: str) -> Measured | None:
    """Return a metric of one evaluation; None if it lacks it."""
    return None if evaluation is None else measured_in(evaluation.results, name)


def measured_in(results: Mapping[str, Any], name: str) -> Measured | None:
    """Return a metric of a `results.json`; None if it lacks it."""
    value = metric_values(results).get(name)
    if value is None:
        return None
    stderr = results.get(f"{name}_stderr")
    return Measured(value, float(stderr) if isinstance(stderr, int | float) else None)


def expert_value(arms: Sequence[Arm], name: str) -> Measured | None:
    """Return what the expert's own completions score, from the newest evaluation that says so."""
    for arm in arms:
        for run in arm.runs:
            for evaluation in reversed(run.evaluations):
                expert = evaluation.results.get("expert") or {}
                value = expert.get(name)
                if value is None and name == "completion_tokens_mean":
                    value = evaluation.results.get("expert_completion_tokens_mean")
                if isinstance(value, int | float):
                    stderr = expert.get(f"{name}_stderr")
                    is_known = isinstance(stderr, int | float)
                    return Measured(float(value), float(stderr) if is_known else None)
    return None


def pooled(found: Sequence[Measured]) -> Measured | None:
    """Return the mean over runs; None of nothing.

    The error of one run is its own. Of several it is the spread of their values over √runs, or the
    error of the mean that their own errors imply where that is greater: few seeds can agree by luck.
    """
    values = [value.value for value in found]
    centre = mean(values)
    if centre is None:
        return None
    if len(found) == 1:
        return found[0]
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))
    error, factor = spread / math.sqrt(len(values)), student_factor(len(values))
    own = [value.stderr for value in found if value.stderr is not None]
    if len(own) == len(found):
        implied = math.sqrt(sum(e * e for e in own)) / len(own)
        if NORMAL_95 * implied > factor * error:
            error, factor = implied, NORMAL_95
    return Measured(centre, error, factor)


def arm_value(arm: Arm, name: str, position: int) -> Measured | None:
    """Return the mean over an arm's runs of the first (0) or last (-1) evaluation."""
    found = [measured(evaluation_at(run, position), name) for run in arm.runs]
    return pooled([value for value in found if value is not None])


def run_change(run: Run, name: str) -> Measured | None:
    """Return what changed in a run from its evaluation before training to its last one.

    The error is that of the mean over prompts of the difference on each, where the samples hold an outcome
    for each prompt; else that of two independent evaluations, which is a little too great.
    """
    if len(run.evaluations) < 2 or run.evaluations[0].step != 0:
        return None
    first, last = run.evaluations[0], run.evaluations[-1]
    before, after = measured(first, name), measured(last, name)
    if before is None or after is None:
        return None
    change, error = after.value - before.value, None
    was, now = outcomes(first, name), outcomes(last, name)
    shared = [now[key] - was[key] for key in was if key in now]
    if len(shared) > 1 and len(shared) == len(was) == len(now):
        centre = sum(shared) / len(shared)
        variance = sum((value - centre) ** 2 for value in shared) / (len(shared) - 1)
        error = math.sqrt(variance / len(shared))
    elif before.stderr is not None and after.stderr is not None:
        error = math.hypot(before.stderr, after.stderr)
    return Measured(change, error)


def arm_change(arms: Sequence[Arm], arm: Arm, name: str) -> Measured | None:
    """Return the mean over an arm's runs of what changed since before training.

    Where the arm itself was not evaluated then, another's evaluation of the same model serves.
    """
    found = [run_change(run, name) for run in arm.runs]
    change = pooled([value for value in found if value is not None])
    if change is not None or not _is_trained(arm):
        return change
    base, after = base_value(arms, name), arm_value(arm, name, -1)
    if base is None or after is None:
        return None
    error = None
    if base.stderr is not None and after.stderr is not None:
        error = math.hypot(base.stderr, after.stderr)
    return Measured(after.value - base.value, error, after.factor)


def _is_trained(arm: Arm) -> bool:
    return any(run.evaluations and run.evaluations[-1].step > 0 for run in arm.runs)


OF_SAMPLES = {
    "prompt_level_strict_acc": "follow_all_strict",
    "prompt_level_loose_acc": "follow_all_loose",
    "completion_tokens_mean": "completion_tokens",
    "logprob_mean": "logprob_mean",
    "expert_logprob_mean": "expert_logprob_mean",
    "base_logprob_mean": "base_logprob_mean",
    "repetition_fraction": "repetition_fraction",
    "expert_bigram_f1": "expert_bigram_f1",
}
"""Metric → the column of `samples.jsonl` of which it is the mean over prompts."""


def outcomes(evaluation: Evaluation, name: str) -> dict[str, float]:
    """Return prompt → its outcome on a metric that is a mean over prompts; empty for any other."""
    found: dict[str, float] = {}
    for row in evaluation.samples:
        own = row.get("metrics")
        value = own.get(name) if isinstance(own, Mapping) else None
        if value is None and name in OF_SAMPLES:
            value = row.get(OF_SAMPLES[name])
        if isinstance(value, int | float):
            found[f"{row.get('key')}\n{row['prompt']}"] = float(value)
    return found


def base_value(arms: Sequence[Arm], name: str) -> Measured | None:
    """Return the value before training, the mean over all runs that were evaluated at step 0.

    Runs of one model answer the same prompts, so the error is that of one run. None if the runs
    start from different models.
    """
    if len({setting(run.config, "model.path") for arm in arms for run in arm.runs}) > 1:
        return None
    found = [
        value
        for arm in arms
        for run in arm.runs
        if (first := evaluation_at(run, 0)) is not None and first.step == 0
        if (value := measured(first, name)) is not None
    ]
    centre = mean([value.value for value in found])
    return None if centre is None else Measured(centre, found[0].stderr)


def headline_metric(arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]) -> str | None:
    """Return the config's `evaluation.best_metric` if it was measured, else the first metric."""
    wanted = setting(arms[0].runs[0].config, "evaluation.best_metric")
    names = [metric.name for metric in metrics]
    if wanted in names:
        return wanted
    return names[0] if names else None
