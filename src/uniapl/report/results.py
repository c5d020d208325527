"""What the evaluations say: values before and after with their errors, and how to write them.

Numbers come from `results.json`; texts for the template and plain lists for the charts go out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from uniapl.report.arms import Arm, evaluation_at, mean
from uniapl.report.reading import Evaluation, setting

MINUS = "−"

Direction = Literal["higher", "lower", "neither"]

LABELS = {
    "prompt_level_strict_acc": "Prompts followed, strict",
    "inst_level_strict_acc": "Instructions followed, strict",
    "prompt_level_loose_acc": "Prompts followed, loose",
    "inst_level_loose_acc": "Instructions followed, loose",
    "completion_tokens_mean": "Completion length",
    "completion_tokens_w1": "Length distance to the expert",
    "expert_nll": "Surprise at the expert",
    "truncated_fraction": "Cut off by the token limit",
    "completion_tokens_ks": "Length distance to the expert, KS",
    "logprob_mean": "Log-prob of own completions",
    "expert_logprob_mean": "Log-prob of the expert's completions",
    "logprob_w1": "Log-prob distance to the expert",
    "logprob_ks": "Log-prob distance to the expert, KS",
    "base_logprob_mean": "Log-prob of own completions before training",
    "expert_base_logprob_mean": "Log-prob of the expert's before training",
    "base_logprob_w1": "Distance in the base's log-prob",
    "base_logprob_ks": "Distance in the base's log-prob, KS",
    "entropy": "Entropy, estimated",
    "repetition_fraction": "Repeated 3-grams",
    "distinct_1": "Distinct words",
    "distinct_2": "Distinct word pairs",
    "expert_bigram_f1": "Word pairs shared with the expert",
}
UNITS = {
    "completion_tokens_mean": "tokens",
    "completion_tokens_w1": "tokens",
    "expert_nll": "nats",
    "logprob_mean": "nats",
    "expert_logprob_mean": "nats",
    "logprob_w1": "nats",
    "base_logprob_mean": "nats",
    "expert_base_logprob_mean": "nats",
    "base_logprob_w1": "nats",
    "entropy": "nats",
}
LOWER_IS_BETTER = (
    "completion_tokens_w1",
    "completion_tokens_ks",
    "expert_nll",
    "truncated_fraction",
    "logprob_w1",
    "logprob_ks",
    "base_logprob_w1",
    "base_logprob_ks",
    "hack_fraction",
)
NEITHER_IS_BETTER = (
    "completion_tokens_mean",
    "logprob_mean",
    "base_logprob_mean",
    "expert_base_logprob_mean",
    "entropy",
    "repetition_fraction",
    "distinct_1",
    "distinct_2",
)
NOT_METRICS = ("n", "step", "expert_completion_tokens_mean")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and, where it is known, its standard error."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationMetric:
    """One row of the results table."""

    name: str
    label: str
    meaning: str
    is_fraction: bool
    """Written as a percentage; differences in points."""
    unit: str
    direction: Direction

    def written(self, value: float | None) -> str:
        """Return a value as text, without its unit."""
        return "–" if value is None else number_text(self._scaled(value), self._digits(value))

    def error(self, measured: Measured | None) -> str:
        """Return `± error`, empty where the error is unknown or the formula gives none (0 % or 100 %)."""
        if measured is None or not measured.stderr:
            return ""
        digits = self._digits(measured.value)
        text = number_text(self._scaled(measured.stderr), digits)
        is_small = not any(character in "123456789" for character in text)
        return f"± <{text[:-1]}1" if is_small else f"± {text}"

    def difference(self, before: Measured | None, after: Measured | None) -> dict[str, str]:
        """Return text, error and verdict (`better`, `worse`, empty) of a change."""
        if before is None or after is None:
            return {"text": "–", "error": "", "verdict": ""}
        change = after.value - before.value
        stderr = None
        if before.stderr is not None and after.stderr is not None:
            stderr = math.hypot(before.stderr, after.stderr)
        digits = self._digits(max(abs(before.value), abs(after.value)))
        text = number_text(self._scaled(change), digits)
        is_change = any(character in "123456789" for character in text)
        verdict = ""
        if is_change and self.direction != "neither":
            verdict = "better" if (change > 0) == (self.direction == "higher") else "worse"
        return {
            "text": f"+{text}" if change > 0 and is_change else text,
            "error": self.error(Measured(max(abs(before.value), abs(after.value)), stderr)),
            "verdict": verdict,
        }

    def _scaled(self, value: float) -> float:
        return value * 100 if self.is_fraction else value

    def _digits(self, value: float) -> int:
        if self.is_fraction:
            return 1
        return 3 if abs(value) < 10 and self.unit != "tokens" else 1


def number_text(value: float, digits: int) -> str:
    """Return a number with fixed digits, thousands set apart and a true minus sign."""
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    if text.startswith("-"):
        is_zero = not any(character in "123456789" for character in text)
        text = text[1:] if is_zero else MINUS + text[1:]
    return text


def evaluation_metrics(
    arms: Sequence[Arm], definitions: Mapping[str, str]
) -> list[EvaluationMetric]:
    """Return every metric of the evaluations: the known names first, then the run's own.

    A metric of the run's own is a fraction, and better when higher, if all its values lie in [0, 1].
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
    ordered = [name for name in LABELS if name in values and name.endswith("_acc")]
    ordered += [name for name in values if name not in LABELS]
    ordered += [name for name in LABELS if name in values and not name.endswith("_acc")]
    return [_described(name, values[name], definitions) for name in ordered]


def _described(
    name: str, values: Sequence[float], definitions: Mapping[str, str]
) -> EvaluationMetric:
    is_own = name not in LABELS
    is_fraction = name not in UNITS and all(0 <= value <= 1 for value in values)
    direction: Direction = "higher" if is_fraction else "neither"
    if name in LOWER_IS_BETTER:
        direction = "lower"
    return EvaluationMetric(
        name=name,
        label=name.replace("_", " ").capitalize() if is_own else LABELS[name],
        meaning=definitions.get(name, ""),
        is_fraction=is_fraction,
        unit="%" if is_fraction else UNITS.get(name, ""),
        direction="neither" if name in NEITHER_IS_BETTER else direction,
    )


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
    value = metric_values(evaluation.results).get(name) if evaluation else None
    if evaluation is None or value is None:
        return None
    stderr = evaluation.results.get(f"{name}_stderr")
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


def arm_value(arm: Arm, name: str, position: int) -> Measured | None:
    """Return the mean over an arm's runs of the first (0) or last (-1) evaluation.

    The error of one run is its own. Of several it is the spread of their values over √runs, or the
    error of the mean that their own errors imply where that is greater: few seeds can agree by luck.
    """
    found = [measured(evaluation_at(run, position), name) for run in arm.runs]
    known = [value for value in found if value is not None]
    values = [value.value for value in known]
    centre = mean(values)
    if centre is None:
        return None
    if len(known) == 1:
        return known[0]
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))
    error = spread / math.sqrt(len(values))
    own = [value.stderr for value in known if value.stderr is not None]
    if len(own) == len(known):
        error = max(error, math.sqrt(sum(e * e for e in own)) / len(own))
    return Measured(centre, error)


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


def evaluation_curves(arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]) -> dict[str, Any]:
    """Return every metric over the steps of the evaluations; empty if none was repeated in between."""
    if max(len(run.evaluations) for arm in arms for run in arm.runs) < 3:
        return {}
    curves: dict[str, Any] = {}
    for metric in metrics:
        series = []
        for index, arm in enumerate(arms):
            by_step: dict[int, list[float]] = {}
            for run in arm.runs:
                for evaluation in run.evaluations:
                    if (value := measured(evaluation, metric.name)) is not None:
                        by_step.setdefault(evaluation.step, []).append(value.value)
            if not by_step:
                continue
            steps = sorted(by_step)
            series.append(
                {
                    "arm": index,
                    "x": steps,
                    "y": [mean(by_step[step]) for step in steps],
                    "low": [min(by_step[step]) for step in steps],
                    "high": [max(by_step[step]) for step in steps],
                }
            )
        expert = expert_value(arms, metric.name)
        curves[metric.name] = {
            "title": metric.label,
            "definition": metric.meaning,
            "percent": metric.is_fraction,
            "series": series,
            "line": None if expert is None else {"value": expert.value, "label": "expert"},
        }
    return curves
