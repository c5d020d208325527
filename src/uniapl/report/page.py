"""Build the page: read runs, group them, fill the template, write one file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from uniapl.errors import InputError
from uniapl.files import write_text
from uniapl.health import WINDOW_STEPS
from uniapl.report.arms import RECENT_STEPS, Arm, group_arms, metric_names
from uniapl.report.comparison import (
    arms_of_comparison,
    compared_metrics,
    comparison_table,
    read_comparison,
    runs_of,
)
from uniapl.report.curves import (
    MAX_EVALUATION_CURVES,
    evaluation_curves,
    reward_against_length,
    step_curves,
    telling_charts,
)
from uniapl.report.distributions import (
    accuracy_by_instruction,
    length_distributions,
    logprob_distributions,
)
from uniapl.report.gradients import gradient_charts
from uniapl.report.health import health_charts, health_of_runs, health_summary
from uniapl.report.reading import Run, read_run
from uniapl.report.results import (
    EvaluationMetric,
    base_value,
    evaluation_metrics,
    headline_metric,
)
from uniapl.report.samples import MAX_IN_ALL, MAX_PER_SET, sample_sets
from uniapl.report.story import completions, headline, title
from uniapl.report.strips import (
    MAX_ROWS,
    Strip,
    comparison_strip,
    difference_strip,
    instruction_strip,
    value_strip,
)
from uniapl.report.tables import benchmarks, facts, notices, provenance, results_table

MAX_STRIPS = 6
"""Further metrics of several arms that are drawn as strips; the table has all."""

STAGES = {
    "objective": "What is minimised, term by term, and the weights of the terms.",
    "reward": "What the rollouts earned.",
    "rollout": "What the policy sampled.",
    "policy": "How the policy moves.",
    "discriminator": "What the discriminator sees.",
    "constraint": "How λ is driven.",
    "optimizer": "Rates and gradients.",
    "data": "How much was learned from.",
    "time": "Where the time went.",
    "memory": "What it took.",
}
SCRIPTS = ("charts.js", "samples.js", "page.js")


def build_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write one self-contained HTML page about one run or many, and return its path.

    Runs that differ only in their seed are drawn as one line with a band.

    Args:
        runs: Run folders, finished or still being written; the folder of a comparison stands for its
            runs, and its table is shown if it is alone.
        output: The file, or a folder that receives `index.html`. Default: `report/index.html` in
            the run's folder, or in the current one if there are several runs.

    Raises:
        InputError: No runs; a folder that is no run, has no metrics, or holds a malformed row.
    """
    if not runs:
        raise InputError("no run given; name at least one run folder")
    given = list(dict.fromkeys(Path(run) for run in runs))
    comparisons = {folder: found for folder in given if (found := read_comparison(folder))}
    folders: list[Path] = []
    for folder in given:
        compared = comparisons.get(folder)
        folders += runs_of(folder, compared) if compared else [folder]
    comparison = next(iter(comparisons.values())) if len(given) == len(comparisons) == 1 else None
    per_run = max(1, min(MAX_PER_SET, MAX_IN_ALL // len(folders)))
    read = [read_run(folder, max_rollouts=per_run) for folder in folders]
    target = _target(given, output)
    _write(target, render(read, comparison))
    return target


def render(runs: Sequence[Run], comparison: Mapping[str, Any] | None = None) -> str:
    """Return the page's HTML; `comparison` is what `comparison.json` of the runs holds."""
    arms = group_arms(runs)
    definitions = {name: text for run in runs for name, text in run.definitions.items()}
    metrics = evaluation_metrics(arms, definitions)
    samples = sample_sets(arms)
    charts = _charts(arms, metrics, definitions)
    data, sample_data = _embedded(charts), _embedded(samples)
    package = files("uniapl.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((package / "template.html.j2").read_text("utf-8"))
    # Text of a model cannot contain the hash of itself, so no script in it could carry the nonce.
    nonce = hashlib.sha256((data + sample_data).encode()).hexdigest()[:32]
    return template.render(
        nonce=nonce,
        arms=arms,
        has_seeds=any(len(arm.runs) > 1 for arm in arms),
        charts=charts,
        max_rows=MAX_ROWS,
        has_samples=bool(samples["sets"]),
        **_story(arms, metrics, comparison),
        **_rest(arms, metrics, charts),
        yaml=_as_yaml,
        style=Markup((package / "report.css").read_text("utf-8")),
        plotly=Markup(_plotly()),
        scripts=[Markup((package / name).read_text("utf-8")) for name in SCRIPTS],
        data=Markup(data),
        sample_data=Markup(sample_data),
    )


def _story(
    arms: Sequence[Arm],
    metrics: Sequence[EvaluationMetric],
    comparison: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what stands open: title, headline, completions and the differences of a comparison."""
    first = _headline_of(arms, metrics)
    told = headline(arms, first, metrics)
    strips: list[Strip] = []
    forest: list[Strip] = []
    if comparison is not None:
        places, compared = arms_of_comparison(comparison, arms), compared_metrics(comparison)
        strips = [comparison_strip(comparison, metric, places) for metric in compared[:1]]
        found = [difference_strip(comparison, metric, places) for metric in compared]
        forest = [strip for strip in found if strip is not None]
    elif len(arms) > 1 and first is not None:
        strips = [value_strip(arms, first, base_value(arms, first.name))]
    return {
        "title": title(arms),
        "facts": facts(arms),
        "notices": notices(arms),
        "headline": told,
        "strips": strips,
        "completions": completions(arms),
        "forest": forest,
        "comparison": comparison_table(comparison) if comparison else None,
    }


def _headline_of(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]
) -> EvaluationMetric | None:
    name = headline_metric(arms, metrics)
    return next((metric for metric in metrics if metric.name == name), None)


def _rest(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric], charts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is folded."""
    health = health_of_runs(arms)
    first = headline_metric(arms, metrics)
    others = [m for m in metrics if m.name != first and m.direction != "neither"]
    return {
        "table": results_table(arms, metrics),
        "more_strips": [
            value_strip(arms, metric, base_value(arms, metric.name))
            for metric in others[:MAX_STRIPS]
        ]
        if len(arms) > 1
        else [],
        "benchmarks": benchmarks(arms),
        "instructions": instruction_strip(accuracy_by_instruction(arms)),
        "health": health,
        "health_summary": health_summary(health),
        "provenance": provenance(arms),
        "num_open_evaluations": min(MAX_EVALUATION_CURVES, len(charts["evaluations"])),
        "recent_steps": RECENT_STEPS,
        "window_steps": WINDOW_STEPS,
    }


def _charts(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric], definitions: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that the page draws, in the shape that charts.js reads."""
    names = metric_names([run for arm in arms for run in arm.runs])
    groups: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for name in names:
        groups.setdefault(name.partition("/")[0], []).append(name)
    evaluations = evaluation_curves(arms, metrics, headline_metric(arms, metrics))
    return {
        "arms": [{"name": arm.name, "runs": len(arm.runs)} for arm in arms],
        "metrics": step_curves(arms, names, definitions),
        "telling": telling_charts(arms, names, definitions),
        "groups": [
            {"name": stage, "about": STAGES.get(stage, ""), "metrics": members}
            for stage, members in groups.items()
            if members
        ],
        "evaluations": evaluations,
        "num_open": MAX_EVALUATION_CURVES,
        "scatter": reward_against_length(arms),
        "lengths": length_distributions(arms),
        "logprobs": logprob_distributions(arms),
        "base_logprobs": logprob_distributions(arms, "base_"),
        "gradients": gradient_charts(names),
        "health": health_charts(arms, names),
    }


def _embedded(value: object) -> str:
    """Return JSON that may stand inside a script element: no text in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028"}
    for character, escape in {**escapes, "\u2029": "\\u2029"}.items():
        text = text.replace(character, escape)
    # Half of a surrogate pair is legal in JSON but cannot be written as UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")


def _plotly() -> str:
    """Return the source of the charts' library.

    Raises:
        InputError: It is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # slow to import, so only where a page is made
    except ImportError as error:
        raise InputError("a report needs plotly: pip install 'uniapl[report]'") from error
    return get_plotlyjs()


def _as_yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _target(folders: Sequence[Path], output: Path | None) -> Path:
    if output is None:
        root = folders[0] if len(folders) == 1 else Path()
        return root / "report" / "index.html"
    return output if output.suffix in (".html", ".htm") else output / "index.html"


def _write(path: Path, text: str) -> None:
    """Write aside and rename, so that an open page never reads half a file."""
    try:
        write_text(path, text.encode("utf-8", "replace").decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
