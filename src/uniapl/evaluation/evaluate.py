"""Check a policy's answers, measure them, and write what came out.

Input: prompts, and rollouts or responses that exist already; output: `results.json` and
`samples.jsonl` (docs/run-folder.md).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError, TrainingError
from uniapl.evaluation.expert_match import (
    MeanLogprobs,
    answer_of,
    diversity,
    match_results,
    match_rows,
    mean_and_error,
)
from uniapl.experts import repetition_fraction, words
from uniapl.files import check_outputs, write_rows, write_text
from uniapl.instructions import Summary, Verdict, aggregate, verify
from uniapl.known_metrics import COMPLETION_METRICS, INSTRUCTION_METRICS, KNOWN
from uniapl.rewards import NamedReward, TrainerState, build_reward, column_names, score
from uniapl.thoughts import without_thoughts
from uniapl.types import Demonstration, Prompt, Reward, Rollout

SAMPLES, RESULTS = "samples.jsonl", "results.json"

MATCH_HEADLINE = ("completion_tokens_w1", "expert_nll")
"""The two of the match to the expert that say most."""

METRIC_TIMEOUT_SECONDS = 3600.0
"""An evaluation is called once with all completions; it may take its time."""

OTHER_RESULTS = ("n", "num_missing", "step", "settings", "versions", "expert", "by_instruction")
"""Keys of `results.json` that are no metrics."""

Check = Callable[[Prompt, str | None], Verdict | None]
"""The verdict on a response to a prompt; None where the prompt has no instructions to check."""


def check_soundly(prompt: Prompt, response: str | None) -> Verdict | None:
    """Check a prompt's instructions as a reward would."""
    columns = prompt.columns
    if not columns.get("instruction_id_list"):
        return None
    return verify(columns["instruction_id_list"], columns["kwargs"], response)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What every evaluation of a run answers."""

    prompts: Sequence[Prompt]
    experts: Sequence[Demonstration | None]
    """The expert's completion of each prompt, where the data has one."""
    metrics: Sequence[NamedReward] = field(default_factory=tuple)
    check: Check = check_soundly
    trainer_state: TrainerState | None = None
    """For metrics that take it; None outside a run."""

    def definitions(self) -> dict[str, str]:
        """Return the one-line meaning of every metric that `evaluate` returns."""
        own = {
            m.name: (m.function.__doc__ or "").strip().split("\n")[0] or f"Mean of {m.name}."
            for m in self.metrics
        }
        known = (*INSTRUCTION_METRICS, *COMPLETION_METRICS)
        return {**{name: KNOWN[name].definition for name in known}, **own}

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that fit a terminal; the report shows all."""
        return (*INSTRUCTION_METRICS, *(m.name for m in self.metrics), *MATCH_HEADLINE)


def load_metrics(paths: Sequence[str]) -> list[NamedReward]:
    """Return metrics from `module:function` paths; they have a reward's signature.

    Raises:
        InputError: One cannot be loaded, two have the same name, or one has the name of a result that
            every evaluation has.
    """
    metrics = [
        build_reward(path, kind="metric", timeout_seconds=METRIC_TIMEOUT_SECONDS) for path in paths
    ]
    names = [m.name for m in metrics]
    if duplicates := {n for n in names if names.count(n) > 1}:
        raise InputError(f"evaluation.metrics: two metrics are named {', '.join(duplicates)}")
    if taken := set(names) & {*INSTRUCTION_METRICS, *COMPLETION_METRICS, *OTHER_RESULTS}:
        raise InputError(f"evaluation.metrics: {', '.join(taken)} is the name of another result")
    return metrics


def evaluate(
    rollouts: Sequence[Rollout],
    data: EvaluationSet,
    settings: Mapping[str, Any],
    policy_logprobs: MeanLogprobs | None = None,
    base_logprobs: MeanLogprobs | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure one completion per prompt.

    Args:
        rollouts: The completions, in the order of the prompts.
        data: Prompts, experts, metrics.
        settings: Recorded with the results.
        policy_logprobs: Of the policy, for the log-prob part of the match to the expert.
        base_logprobs: Of the model before training.
        ranks: The first one calls the metrics, with all completions; all get the results.

    Returns:
        The results (metrics at the top level) and one row per prompt.

    Raises:
        TrainingError: A metric failed, or the policy gives a completion no finite log-prob.
    """
    verdicts = [data.check(r.prompt, r.answer) for r in rollouts]
    values, measured = _measure(rollouts, data, ranks)
    results: dict[str, Any] = {"n": len(rollouts)}
    results |= _instruction_results([v for v in verdicts if v])
    results |= measured
    results |= mean_and_error("truncated_fraction", [float(r.is_truncated) for r in rollouts])
    match = match_rows(rollouts, data.experts, policy_logprobs, base_logprobs)
    results |= match_results(match, [r.answer for r in rollouts])
    if not all(math.isfinite(results.get(name, 0.0)) for name in ("expert_nll", "entropy")):
        raise TrainingError(
            "expert_nll or entropy is not finite: the policy's weights have diverged"
        )
    if any(e is not None for e in data.experts):
        results["expert"] = expert_results(data, rollouts, ranks)
    results["settings"] = dict(settings)
    rows = [
        _row(r, v, e, m, near)
        for r, v, e, m, near in zip(rollouts, verdicts, data.experts, values, match, strict=True)
    ]
    return results, rows


def evaluate_responses(
    data: EvaluationSet, responses: Sequence[str | None], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Check responses that were written elsewhere; None counts as failed on every instruction.

    Args:
        data: Prompts and check; experts and metrics play no part.
        responses: One per prompt; thoughts that `<think>` opens are no part of the answer.
        settings: Recorded with the results.

    Returns:
        As `evaluate`, without what only a policy's own rollouts can tell.
    """
    responses = [None if r is None else without_thoughts(r) for r in responses]
    verdicts = [data.check(p, r) for p, r in zip(data.prompts, responses, strict=True)]
    results = {"n": len(responses), **_instruction_results([v for v in verdicts if v])}
    results["settings"] = dict(settings)
    rows = [
        {**_identity(prompt, response), **_verdict_columns(prompt, verdict)}
        for prompt, response, verdict in zip(data.prompts, responses, verdicts, strict=True)
    ]
    return results, rows


def expert_results(
    data: EvaluationSet, policy: Sequence[Rollout], ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Measure the expert's own answers as if a policy had written them.

    Args:
        data: Prompts, experts, metrics.
        policy: The policy's rollouts of the same prompts: they know which prompts open a thought.
        ranks: As in `evaluate`.
    """
    rollouts = [
        Rollout(e.prompt, answer_of(e, r), e.token_ids, (), "stop")
        for e, r in zip(data.experts, policy, strict=True)
        if e is not None
    ]
    verdicts = [v for r in rollouts if (v := data.check(r.prompt, r.completion))]
    texts = [words(r.completion) for r in rollouts]
    return {
        **_instruction_results(verdicts),
        **_measure(rollouts, data, ranks)[1],
        **mean_and_error("repetition_fraction", [repetition_fraction(text) for text in texts]),
        **diversity([r.completion for r in rollouts]),
    }


def write_evaluation(
    folder: Path, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write `samples.jsonl`, then `results.json`, each aside and renamed."""
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_rows(folder / SAMPLES, rows)
    write_text(folder / RESULTS, text)


def check_limit(limit: int | None) -> None:
    """Refuse a number of prompts that is none.

    Raises:
        InputError: It is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")


def check_folder(folder: Path, inputs: Mapping[str, str | Path]) -> None:
    """Refuse a folder that the two files of an evaluation cannot go to, before anything is answered.

    Args:
        folder: Need not exist yet.
        inputs: As of `check_outputs`.

    Raises:
        InputError: It is a file, cannot be written, holds one of the inputs, or samples of somebody else.
    """
    outputs = {f"--output ({name})": folder / name for name in (SAMPLES, RESULTS)}
    check_outputs(outputs, inputs)
    if (folder / SAMPLES).exists() and not (folder / RESULTS).exists():
        raise InputError(f"--output: {folder / SAMPLES} belongs to no evaluation; move it away")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to replace the results of another model or of other settings.

    Args:
        folder: Where the results will go.
        settings: What will be recorded with them.

    Raises:
        InputError: There are results that say otherwise; names what differs.
    """
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        # results of earlier versions knew no limit
        before = {"limit": None} | json.loads(path.read_text(encoding="utf-8"))["settings"]
        other = [name for name in settings if name in before and before[name] != settings[name]]
        kind = [name for name in before if name not in settings]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--output: {path} holds no results of an evaluation; move it away"
        ) from error
    if other or kind:
        shown = [
            f"{name} was {before[name]!r:.80} and is {settings.get(name)!r:.80}"
            for name in [*other, *kind]
        ]
        raise InputError(
            f"--output: {folder} holds other results ({'; '.join(shown[:3])}); choose another folder, or move it away"
        )


def _measure(
    rollouts: Sequence[Rollout], data: EvaluationSet, ranks: Ranks
) -> tuple[list[Reward], dict[str, Any]]:
    """Return what the metrics say of each rollout, and of all."""
    logged: dict[str, float] = {}
    columns = column_names(data.prompts)

    def call() -> tuple[list[Reward], dict[str, float]]:
        return score(
            rollouts, data.metrics, columns, trainer_state=data.trainer_state, logged=logged
        ), logged

    values, logged = ranks.on_first(call, "the evaluation's metrics")
    means = {name: value if math.isfinite(value) else None for name, value in logged.items()}
    return values, {**_mean_by_name([v.breakdown for v in values]), **means}


def _instruction_results(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    if not verdicts:
        return {}
    summary: Summary = aggregate(verdicts)
    by_instruction = {
        name: {"strict": a["strict_acc"], "loose": a["loose_acc"], "n": a["count"]}
        for name, a in summary["instructions"].items()
    }
    kept = {k: v for k, v in summary.items() if k.startswith(("prompt_level", "inst_level"))}
    return {**kept, "by_instruction": by_instruction}


def _mean_by_name(breakdowns: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    results: dict[str, float | None] = {}
    for name in breakdowns[0] if breakdowns else ():
        values = [b[name] for b in breakdowns]
        numbers = [v for v in values if v is not None]
        if not numbers:
            results[name] = None
            continue
        results |= mean_and_error(name, numbers)
    return results


def _row(
    rollout: Rollout,
    verdict: Verdict | None,
    expert: Demonstration | None,
    measured: Reward,
    match: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **_identity(rollout.prompt, rollout.answer),
        **({"thoughts": rollout.thoughts} if rollout.thoughts else {}),
        "finish_reason": rollout.finish_reason,
        "expert_completion": expert.completion if expert else None,
        **match,
        "metrics": dict(measured.breakdown),
        **({"extra": dict(measured.extra)} if measured.extra else {}),
        **_verdict_columns(rollout.prompt, verdict),
    }


def _identity(prompt: Prompt, response: str | None) -> dict[str, Any]:
    key = prompt.columns.get("key")
    key = key if isinstance(key, int | str) else prompt.id
    return {"key": key, "prompt": prompt.text, "response": response}


def _verdict_columns(prompt: Prompt, verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {
        "instruction_id_list": list(verdict.instruction_ids),
        "kwargs": prompt.columns["kwargs"],
        "follow_instruction_list_strict": list(verdict.strict),
        "follow_instruction_list_loose": list(verdict.loose),
        "follow_all_strict": verdict.all_strict,
        "follow_all_loose": verdict.all_loose,
    }
