"""Is the run sound? What the terminal said of it and how its metrics stood at the end; λ and the discriminator.

Bands and sentences are those of `uniapl.health`: the page replays `metrics.jsonl` through the watch that spoke
while the run trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.health import BANDS, HealthWatch, quiet_steps
from uniapl.report.arms import Arm, curve
from uniapl.report.curves import band_of
from uniapl.report.reading import Run, setting

ORDER = ("off", "unsure", "sound")

Charts = list[dict[str, Any]]

CHARTS: Charts = [
    {
        "title": "λ, the weight of the adversarial term",
        "metrics": [["objective/adversarial_weight", "acting"]],
    },
    {
        "title": "Margin, held-out demonstrations over rollouts",
        "metrics": [["discriminator/margin", "of the step"], ["constraint/margin", "smoothed"]],
    },
    {
        "title": "Discriminator accuracy",
        "metrics": [["discriminator/accuracy", ""]],
    },
    {
        "title": "Distance to the expert",
        "metrics": [["constraint/distance", ""]],
        "target": True,
    },
    {
        "title": "Correlation with length",
        "metrics": [["discriminator/length_correlation", ""]],
    },
    {
        "title": "Correlation with repetition",
        "metrics": [["discriminator/repetition_correlation", ""]],
    },
    {"title": "Score of rollouts", "metrics": [["discriminator/score", ""]]},
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
    adversarial = [i for i, arm in enumerate(arms) if curve(arm, "discriminator/group_std")]
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
                "band": band_of(chart["metrics"][0][0]),
                "line": {"value": target, "label": "target"}
                if chart.get("target") and isinstance(target, float)
                else None,
            }
        )
    return charts


def health_of_runs(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return one entry per run: its findings at the end, the worst first, and its warnings on the way."""
    found: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        for run in arm.runs:
            watch, warnings = _replayed(run)
            findings = sorted(watch.findings(), key=lambda finding: ORDER.index(finding.state))
            found.append(
                {
                    "arm": index,
                    "name": run.folder.resolve().name,
                    "findings": findings,
                    "warnings": warnings,
                }
            )
    return found


def _replayed(run: Run) -> tuple[HealthWatch, list[tuple[int, str]]]:
    """Return the watch after the run's last step and (step, line) of every warning."""
    warm = setting(run.config, "discriminator.warmup_steps")
    quiet = quiet_steps(warm if isinstance(warm, int) else 0)
    watch, warnings = HealthWatch(), []
    columns = {name: run.metrics[name] for name in BANDS if name in run.metrics}
    for index, step in enumerate(run.steps):
        row = {name: column[index] for name, column in columns.items()}
        warnings += [(step, line) for line in watch.warnings(step, row, quiet)]
    return watch, warnings


def health_summary(health: Sequence[Mapping[str, Any]]) -> str:
    """Return how many judgements came out how, in words."""
    states = [finding.state for run in health for finding in run["findings"]]
    words = {"off": "off", "unsure": "cannot be told", "sound": "in their band"}
    counts = [(states.count(state), word) for state, word in words.items()]
    return ", ".join(f"{count} {word}" for count, word in counts if count)
