"""`policy/README.md`: what a model is, what it learned from and how it was measured, for the hub and for people."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uniapl import __version__
from uniapl.config import dump_published
from uniapl.config.schema import Config
from uniapl.config.strict_yaml import dump_yaml

_WEIGHTS = {
    "sft_weight": "negative log-likelihood of the expert's completions",
    "grpo_weight": "reward advantage inside groups of rollouts",
    "adversarial_weight": "λ: advantage by a discriminator of expert and policy",
    "kl_coef": "KL divergence from the model before training",
}
_TEXT = """\
# {name}, post-trained with `{method}`

{base} after {steps} steps of the method `{method}` of uniapl {version}, an implementation of
[Unified Adversarial Preference Learning](https://arxiv.org/abs/2509.25148). It is an ordinary transformers model.

## Objective
| weight | value | of |
|---|---|---|
{weights}

A schedule is given as points `[fraction of all steps, value]`.

## Data
| what | source | rows |
|---|---|---|
{data}

## Metrics
{metrics}

## How it was made
{versions}.

```yaml
{config}```
"""


def model_card(
    config: Config,
    environment: Mapping[str, Any],
    num_rows: Mapping[str, int],
    evaluations: Mapping[str, Mapping[str, Any]],
    headline: Iterable[str],
) -> str:
    """Return the card in Markdown, with the front matter that the hub reads.

    Nothing in it depends on where the run was made: folders are left out, so that a card can be published. The
    license is left to whoever publishes: that of the base model and of the data binds.

    Args:
        config: With what the method decides filled in.
        environment: As in `environment.json`.
        num_rows: Rows by the key of the config that names their file.
        evaluations: Title → results; a column of the table each.
        headline: Metrics to show.
    """
    path = config.model.path
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    is_hub_id = not Path(path).expanduser().exists() and path.count("/") == 1
    front: dict[str, Any] = {"base_model": path} if is_hub_id else {}
    front |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(("uniapl", config.method))),
    }
    published = {
        key: ", ".join(path.rpartition("/")[2] for path in paths)
        for key, paths in _sources(config).items()
    }
    versions = {"uniapl": __version__, **environment["versions"]}
    text = _TEXT.format(
        name=name,
        method=config.method,
        base=f"[{path}](https://huggingface.co/{path})" if is_hub_id else f"`{name}`",
        steps=config.training.steps,
        version=__version__,
        weights=_lines(
            (f"`{key}`", getattr(config.objective, key), meaning)
            for key, meaning in _WEIGHTS.items()
        ),
        data=_lines((f"`{key}`", published[key], num_rows[key]) for key in published),
        metrics=_metrics_table(evaluations, headline),
        versions=", ".join(f"{package} {version}" for package, version in versions.items()),
        config=dump_published(config),
    )
    return f"---\n{dump_yaml(front)}---\n{text}"


def _sources(config: Config) -> dict[str, list[str]]:
    """Return the paths of the data that the run read, by key."""
    named = {
        "data.demonstrations": config.data.demonstrations,
        "data.prompts": config.data.prompts,
        "evaluation.prompts": config.evaluation.prompts,
    }
    return {
        key: [source.path for source in config.data.sources(value)]
        for key, value in named.items()
        if value is not None
    }


def _metrics_table(evaluations: Mapping[str, Mapping[str, Any]], headline: Iterable[str]) -> str:
    shown = [
        name
        for name in headline
        if any(isinstance(results.get(name), float) for results in evaluations.values())
    ]
    if not shown:
        return "None were measured."
    (size, *_) = (results["n"] for results in evaluations.values() if "n" in results)
    head = f"On {size} prompts, ± standard error.\n\n| | {' | '.join(evaluations)} |\n"
    rule = "|---" * (len(evaluations) + 1) + "|\n"
    rows = (
        (f"`{name}`", *(_value(results, name) for results in evaluations.values()))
        for name in shown
    )
    return head + rule + _lines(rows)


def _value(results: Mapping[str, Any], name: str) -> str:
    value, error = results.get(name), results.get(f"{name}_stderr")
    if not isinstance(value, float):
        return ""
    return f"{value:.3f} ± {error:.3f}" if isinstance(error, float) else f"{value:.3f}"


def _lines(rows: Iterable[Iterable[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
