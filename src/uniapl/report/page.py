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

from uniapl.files import write_text
from uniapl.report.arms import Arm, curve, group_arms, metric_names
from uniapl.report.comparison import comparison_table, read_comparison, runs_of
from uniapl.report.distributions import (
    accuracy_by_instruction,
    length_distributions,
    logprob_distributions,
)
from uniapl.report.gradients import gradient_charts
from uniapl.report.health import health_charts, health_verdicts
from uniapl.report.reading import Run, read_run
from uniapl.report.results import (
    EvaluationMetric,
    base_value,
    evaluation_curves,
    evaluation_metrics,
    headline_metric,
)
from uniapl.report.samples import MAX_IN_ALL, MAX_PER_SET, sample_sets
from uniapl.report.tables import comparison_points, facts, notices, provenance, results_table, tiles
from uniapl.types import InputError

HEADLINE = (
    "reward/mean",
    "objective/sft",
    "discriminator/accuracy",
    "objective/adversarial_weight",
    "rollout/completion_tokens_mean",
    "policy/entropy",
)
"""The curves that are open when the page opens."""

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
        facts=facts(arms),
        notices=notices(arms),
        tiles=tiles(arms, metrics, headline_metric(arms, metrics)),
        table=results_table(arms, metrics),
        comparison=comparison_table(comparison) if comparison else None,
        arms=arms,
        has_seeds=any(len(arm.runs) > 1 for arm in arms),
        charts=charts,
        verdicts=health_verdicts(arms),
        has_samples=bool(samples["sets"]),
        max_per_set=MAX_PER_SET,
        provenance=provenance(arms),
        yaml=_as_yaml,
        style=Markup((package / "report.css").read_text("utf-8")),
        plotly=Markup(_plotly()),
        scripts=[Markup((package / name).read_text("utf-8")) for name in SCRIPTS],
        data=Markup(data),
        sample_data=Markup(sample_data),
    )


def _charts(
    arms: Sequence[Arm], metrics: Sequence[EvaluationMetric], definitions: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that the page draws, in the shape that charts.js reads."""
    names = metric_names([run for arm in arms for run in arm.runs])
    groups: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for name in names:
        groups.setdefault(name.partition("/")[0], []).append(name)
    bases = {metric.name: base_value(arms, metric.name) for metric in metrics}
    return {
        "arms": [{"name": arm.name, "runs": len(arm.runs)} for arm in arms],
        "metrics": {name: _metric(arms, name, definitions) for name in names},
        "headline": [name for name in HEADLINE if name in names and _is_used(arms, name)],
        "groups": [
            {"name": stage, "about": STAGES.get(stage, ""), "metrics": members}
            for stage, members in groups.items()
            if members
        ],
        "evaluations": evaluation_curves(arms, metrics),
        "comparison": comparison_points(arms, metrics, bases) if len(arms) > 1 else [],
        "lengths": length_distributions(arms),
        "logprobs": logprob_distributions(arms),
        "base_logprobs": logprob_distributions(arms, "base_"),
        "instructions": accuracy_by_instruction(arms),
        "gradients": gradient_charts(names),
        "health": health_charts(arms, names),
    }


def _metric(arms: Sequence[Arm], name: str, definitions: Mapping[str, str]) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    for index, arm in enumerate(arms):
        found = curve(arm, name)
        if found is None:
            continue
        one = {"arm": index, "x": found.steps, "y": _rounded(found.mean)}
        if len(arm.runs) > 1:
            one |= {"low": _rounded(found.low), "high": _rounded(found.high)}
        series.append(one)
    return {"definition": definitions.get(name, ""), "series": series}


def _is_used(arms: Sequence[Arm], name: str) -> bool:
    """Whether a metric is anything but 0 all along, as the weight of an unused term is."""
    return any(value for arm in arms for run in arm.runs for value in run.metrics.get(name, ()))


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]


def _embedded(value: object) -> str:
    """Return JSON that may stand inside a script element: no text in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028"}
    for character, escape in {**escapes, "\u2029": "\\u2029"}.items():
        text = text.replace(character, escape)
    # Half of a surrogate pair is legal in JSON but cannot be written as UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # slow to import, so only where a page is made

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
