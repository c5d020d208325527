"""Is the adversarial part sound? λ, the discriminator's accuracy and what it may be judging instead."""

from collections.abc import Sequence
from typing import Any

from uniapl.report.arms import Arm, curve, mean
from uniapl.report.reading import setting

ACCURACY_BAND = (0.5, 0.85)
LENGTH_BAND = (-0.3, 0.3)
RECENT_FRACTION = 0.2
"""Verdicts are about the mean over this last share of the steps."""

Charts = list[dict[str, Any]]

CHARTS: Charts = [
    {
        "title": "λ, the weight of the adversarial term",
        "metrics": [["objective/adversarial_weight", "acting"]],
    },
    {
        "title": "Discriminator accuracy",
        "metrics": [["discriminator/accuracy", ""]],
        "band": ACCURACY_BAND,
    },
    {
        "title": "Accuracy on held-out demonstrations",
        "metrics": [["constraint/accuracy", ""]],
        "band": ACCURACY_BAND,
        "target": True,
    },
    {
        "title": "Correlation with length",
        "metrics": [["discriminator/length_correlation", ""]],
        "band": LENGTH_BAND,
    },
    {
        "title": "Correlation with the reward",
        "metrics": [["discriminator/reward_correlation", ""]],
    },
    {
        "title": "Logit by kind of prompt",
        "metrics": [
            ["discriminator/demonstration_logit", "demonstration"],
            ["discriminator/preference_logit", "preference"],
        ],
    },
    {"title": "Spread inside groups", "metrics": [["discriminator/group_std", ""]]},
]


def health_charts(arms: Sequence[Arm], measured_names: Sequence[str]) -> Charts:
    """Return the charts of which at least one metric was measured, with band and target line.

    Only of the arms that have a discriminator; empty if none has.
    """
    adversarial = [i for i, arm in enumerate(arms) if curve(arm, "discriminator/accuracy")]
    if not adversarial:
        return []
    charts: Charts = []
    for chart in CHARTS:
        shown = [pair for pair in chart["metrics"] if pair[0] in measured_names]
        if not shown:
            continue
        target = setting(arms[adversarial[0]].runs[0].config, "constraint.target")
        charts.append(
            {
                "title": chart["title"],
                "metrics": shown,
                "arms": adversarial,
                "band": chart.get("band"),
                "line": {"value": target, "label": "target"}
                if chart.get("target") and isinstance(target, float)
                else None,
            }
        )
    return charts


def health_verdicts(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return one or more lines per arm that has a discriminator: what is off and what to do."""
    verdicts: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        accuracy = _recent(arm, "discriminator/accuracy")
        if accuracy is None:
            continue
        lines = [*_accuracy_lines(accuracy), *_length_lines(arm), *_constraint_lines(arm)]
        is_sound = not lines
        if is_sound:
            lines = [f"In range: it ranks {accuracy:.0%} of pairs right."]
        verdicts.append({"arm": index, "name": arm.name, "is_sound": is_sound, "lines": lines})
    return verdicts


def _accuracy_lines(accuracy: float) -> list[str]:
    low, high = ACCURACY_BAND
    if accuracy > high:
        return [
            f"Accuracy {accuracy:.2f} is above {high}: it tells the policy from the expert with "
            "ease. Raise λ or its label smoothing, or lower its learning rate."
        ]
    if accuracy < low:
        return [
            f"Accuracy {accuracy:.2f} is below {low}: its signal is noise, and a met constraint "
            "means nothing. Give it more warm-up steps or a higher learning rate."
        ]
    return []


def _length_lines(arm: Arm) -> list[str]:
    correlation = _recent(arm, "discriminator/length_correlation")
    if correlation is None or LENGTH_BAND[0] <= correlation <= LENGTH_BAND[1]:
        return []
    kind = "long" if correlation > 0 else "short"
    return [
        f"Correlation with length {correlation:+.2f}: it takes {kind} completions for the expert's. "
        "Compare lengths below; use credit per token, or lower λ."
    ]


def _constraint_lines(arm: Arm) -> list[str]:
    state = _recent(arm, "constraint/state")
    if state is not None and state > 0.5:
        return [
            "λ is at its maximum and the constraint is still not met: raise constraint.maximum, or "
            "accept a higher target."
        ]
    return []


def _recent(arm: Arm, metric: str) -> float | None:
    """Return the mean over the arm's runs and the last steps, at least five of them."""
    values: list[float] = []
    for run in arm.runs:
        column = [value for value in run.metrics.get(metric, ()) if value is not None]
        values += column[-max(5, round(RECENT_FRACTION * len(column))) :]
    return mean(values)
