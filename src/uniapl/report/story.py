"""The top of the page: a title in words, the headline in one line of numbers, and two completions.

Input: arms and their evaluations; output: texts for the template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.known_metrics import KNOWN
from uniapl.report.arms import Arm, evaluation_at
from uniapl.report.reading import Row, Run, setting
from uniapl.report.results import (
    EvaluationMetric,
    arm_change,
    arm_value,
    base_value,
    expert_value,
)

UNTELLING = ("model", "policy")
"""Last parts of a path that name no model; the folder around them does."""

MAX_ALSO = 3
"""Metrics beside the headline's."""
MAX_PANES = 6
"""Completions of one prompt that stand side by side."""
MAX_CHARACTERS = 900
"""A longer text is cut at the top of the page; the browser of completions shows more."""


def title(arms: Sequence[Arm]) -> str:
    """Return model and method in words."""
    runs = [run for arm in arms for run in arm.runs]
    models = " and ".join(
        dict.fromkeys(model_name(str(setting(run.config, "model.path") or "?")) for run in runs)
    )
    if len(arms) > 1:
        names = [arm.name for arm in arms]
        if len(names) > 4:
            return f"{models}: {len(names)} arms compared"
        return f"{models}: {', '.join(names[:-1])} and {names[-1]} compared"
    method = runs[0].definitions.get("method", runs[0].method)
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    return f"{models}, trained by {method}{seeds}"


def model_name(path: str) -> str:
    """Return what people call the model at a path or hub id: no `model`, no hash of a hub's cache."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for part in parts:
        if part.startswith("models--"):
            return part.rpartition("--")[2]
    while len(parts) > 1 and parts[-1] in UNTELLING:
        parts.pop()
    return parts[-1] if parts else path


def headline(
    arms: Sequence[Arm], metric: EvaluationMetric | None, metrics: Sequence[EvaluationMetric]
) -> dict[str, Any] | None:
    """Return the metric that the run was for, before and after, of one arm; None if there is no value.

    `also` holds up to three more, in short.

    The interval is that of the change over prompts (`results.run_change`) and, with several seeds, over them.
    """
    if metric is None or len(arms) != 1:
        return None
    (arm,), name = arms, metric.name
    after = arm_value(arm, name, -1)
    if after is None:
        return None
    before, expert, change = (
        base_value(arms, name),
        expert_value(arms, name),
        arm_change(arms, arm, name),
    )
    told = metric.change(change)
    unit = "points" if metric.is_fraction else metric.unit
    sentence = ""
    if change is not None and change.low is not None and change.high is not None:
        interval = metric.interval(change.low, change.high, is_difference=True)
        sentence = f"{told['text']} {unit}, 95 % interval {interval}"
        sentence += {
            "better": ": better, the interval excludes 0.",
            "worse": ": worse, the interval excludes 0.",
            "cannot tell": ": it contains 0, so this run cannot tell.",
        }.get(told["verdict"], ".")
    elif change is not None:
        sentence = f"{told['text']} {unit}; how sure that is, this run cannot tell."
    return {
        "metric": metric,
        "before": None if before is None else metric.written(before.value),
        "before_error": metric.error(before),
        "after": metric.written(after.value),
        "after_error": metric.error(after),
        "expert": None if expert is None else metric.with_unit(expert.value),
        "verdict": told["verdict"],
        "sentence": sentence,
        "n": arm.runs[0].evaluations[-1].results.get("n"),
        "also": _also(arms, [other for other in metrics if other.name != name]),
    }


def _also(arms: Sequence[Arm], metrics: Sequence[EvaluationMetric]) -> list[dict[str, Any]]:
    own = [metric.name for metric in metrics if metric.name not in KNOWN and metric.is_fraction]
    wanted = ("prompt_level_strict_acc", *own[:2], "completion_tokens_w1")
    found: list[dict[str, Any]] = []
    for metric in (metric for name in wanted for metric in metrics if metric.name == name):
        before, after = base_value(arms, metric.name), arm_value(arms[0], metric.name, -1)
        if after is None:
            continue
        change = arm_change(arms, arms[0], metric.name)
        found.append(
            {
                "metric": metric,
                "before": "" if before is None else f"{metric.written(before.value)} → ",
                "after": metric.with_unit(after.value),
                "change": metric.change(change) if change is not None else None,
            }
        )
    return found[:MAX_ALSO]


def completions(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Return two prompts with their completions side by side, and the rule that chose them.

    Of one arm: the first prompt of the evaluation, in its file's order, whose outcome got better, and the
    first whose outcome did not. Of several: the first two on which their last evaluations disagree. Where no
    outcome is known or no such prompt is found, the file's first ones.
    """
    runs = [run for arm in arms[: MAX_PANES - 1] for run in arm.runs[:1]]
    names = [arm.name for arm in arms[: MAX_PANES - 1]]
    rows = [_by_prompt(run, -1) for run in runs]
    before = _by_prompt(runs[0], 0) if _has_before(runs[0]) else {}
    shared = [key for key in rows[0] if all(key in other for other in rows[1:])]
    if len(runs) == 1:
        shared = [key for key in shared if key in before] or shared
    if not shared:
        return None
    chosen, rule = (
        _by_change(shared, before, rows[0]) if len(runs) == 1 else _by_disagreement(shared, rows)
    )
    return {
        "rule": rule,
        "prompts": [
            {
                "prompt": _cut(rows[0][key]["prompt"]),
                "expert": _cut(rows[0][key].get("expert_completion")),
                "panes": [
                    *([_pane("Before training", before[key], None)] if key in before else []),
                    *(
                        _pane(
                            f"After {run.evaluations[-1].step} steps" if len(runs) == 1 else name,
                            found[key],
                            arm,
                        )
                        for arm, (name, run, found) in enumerate(
                            zip(names, runs, rows, strict=True)
                        )
                    ),
                ],
            }
            for key in chosen
        ],
    }


def _has_before(run: Run) -> bool:
    return len(run.evaluations) > 1 and run.evaluations[0].step == 0


def _by_prompt(run: Run, position: int) -> dict[str, Row]:
    evaluation = evaluation_at(run, position)
    rows = evaluation.samples if evaluation else ()
    return {f"{row.get('key')}\n{row['prompt']}": row for row in rows}


def _by_change(
    keys: Sequence[str], before: Mapping[str, Row], after: Mapping[str, Row]
) -> tuple[list[str], str]:
    was = {key: _passed(before[key]) for key in keys if key in before}
    now = {key: _passed(after[key]) for key in keys}
    known = [key for key in keys if was.get(key) is not None and now[key] is not None]
    better = [key for key in known if now[key] and not was[key]]
    worse = [key for key in known if was[key] and not now[key]]
    others = [key for key in known if key not in set(better)]
    if not known or not better or not others:
        return list(keys[:2]), f"The first {min(2, len(keys))} of {len(keys)} prompts, unseen."
    chosen = sorted((better[0], others[0]), key=keys.index)
    return chosen, (
        f"The first prompt, in the file's order, that was failed before and is followed now, and the first "
        f"that is not so. Of {len(known)} prompts {len(better)} changed that way, {len(worse)} the other way."
    )


def _by_disagreement(
    keys: Sequence[str], rows: Sequence[Mapping[str, Row]]
) -> tuple[list[str], str]:
    disputed = [key for key in keys if len({_passed(found[key]) for found in rows}) > 1]
    rule = (
        f"The first two prompts, in the file's order, on which the arms differ in what they follow, seen through "
        f"the first run of each. They differ on {len(disputed)} of {len(keys)} prompts."
    )
    if len(disputed) < 2:
        return list(keys[:2]), f"The first {min(2, len(keys))} of {len(keys)} prompts, unseen."
    return disputed[:2], rule


def _passed(row: Row) -> bool | None:
    found = row.get("follow_all_strict")
    return None if found is None else bool(found)


def _pane(name: str, row: Row, arm: int | None) -> dict[str, Any]:
    ids, strict = (
        row.get("instruction_id_list") or [],
        row.get("follow_instruction_list_strict") or [],
    )
    return {
        "title": name,
        "arm": arm,
        "text": _cut(row["response"]),
        "tokens": row.get("completion_tokens"),
        "is_cut": row.get("finish_reason") == "length",
        "checks": [
            {"name": str(check), "followed": bool(was)}
            for check, was in zip(ids, strict, strict=False)
        ],
    }


def _cut(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    rest = len(text) - MAX_CHARACTERS
    return f"{text[:MAX_CHARACTERS]} … [{rest} more characters]" if rest > 0 else text
