"""The completions that the page's browser shows: capped, with every text stored once.

Sets are the first and last evaluation of each run and its logged rollouts. The page reads the result
with report JavaScript (samples.js), which knows the short keys written here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uniapl.report.arms import Arm
from uniapl.report.reading import Evaluation, Row, Run

MAX_PER_SET = 300
MAX_IN_ALL = 24_000
MAX_CHARACTERS_IN_ALL = 24_000_000
"""Of long texts a page holds fewer: it must open in seconds."""
MAX_CHARACTERS = 6000
"""A longer text is cut, and says so."""


@dataclass(slots=True)
class _Texts:
    """Every distinct text once; rows refer to it by its index."""

    texts: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)

    def add(self, text: object) -> int | None:
        """Return the index of a text, None for anything else."""
        if not isinstance(text, str):
            return None
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]} … [{len(text) - MAX_CHARACTERS} more characters]"
        if text not in self.index:
            self.index[text] = len(self.texts)
            self.texts.append(text)
        return self.index[text]


def sample_sets(arms: Sequence[Arm]) -> dict[str, Any]:
    """Return `texts` and `sets`; each set says how many rows it shows of how many there are."""
    sources = list(_sources(arms))
    each = max(1, len(sources))
    cap = min(MAX_PER_SET, MAX_IN_ALL // each, MAX_CHARACTERS_IN_ALL // (each * _length(sources)))
    cap = max(1, cap)
    texts = _Texts()
    sets = [_sample_set(source, cap, texts) for source in sources]
    return {"texts": texts.texts, "sets": sets}


@dataclass(frozen=True, slots=True)
class _Source:
    arm: int
    run: Run
    run_name: str
    evaluation: Evaluation | None
    """None: the set is the run's rollouts."""


def _sources(arms: Sequence[Arm]) -> Iterator[_Source]:
    for index, arm in enumerate(arms):
        for run in arm.runs:
            name = arm.name if len(arm.runs) == 1 else f"{arm.name}, seed {run.config.get('seed')}"
            evaluations = [found for found in run.evaluations if found.samples]
            for evaluation in reversed(evaluations):
                yield _Source(index, run, name, evaluation)
            if run.rollouts:
                yield _Source(index, run, name, None)


def _length(sources: Sequence[_Source]) -> int:
    """Return about how many characters a row has, judged by a few of each source."""
    names = ("prompt", "response", "completion", "expert_completion")
    rows = [
        row
        for source in sources
        for row in (source.evaluation.samples if source.evaluation else source.run.rollouts)[:8]
    ]
    texts = [text for row in rows for name in names if isinstance(text := row.get(name), str)]
    return max(1, sum(min(MAX_CHARACTERS, len(text)) for text in texts) // max(1, len(rows)))


def _sample_set(source: _Source, cap: int, texts: _Texts) -> dict[str, Any]:
    evaluation = source.evaluation
    if evaluation is not None:
        total: int | None = len(evaluation.samples)
        shown = evaluation.samples[:cap]
        rows = [_evaluation_row(row, texts) for row in shown]
        step, label = evaluation.step, f"evaluation at step {evaluation.step}"
    else:
        total = source.run.num_rollouts
        shown = _evenly(source.run.rollouts, cap)
        rows = [_rollout_row(row, texts) for row in shown]
        step, label = None, "rollouts during training"
    return {
        "arm": source.arm,
        "run": source.run_name,
        "label": label,
        "step": step,
        "total": total,
        "rows": rows,
    }


def _evenly(rows: Sequence[Row], cap: int) -> list[Row]:
    """Keep every k-th row, the last one always."""
    stride = -(-len(rows) // cap)
    return list(rows[::-1][::stride][::-1])


def _evaluation_row(row: Row, texts: _Texts) -> dict[str, Any]:
    ids = row.get("instruction_id_list") or []
    kwargs = _padded(row.get("kwargs"), len(ids))
    strict = _padded(row.get("follow_instruction_list_strict"), len(ids))
    loose = _padded(row.get("follow_instruction_list_loose"), len(ids))
    checks = [
        [str(name), _kwargs(given), _truth(is_strict), _truth(is_loose)]
        for name, given, is_strict, is_loose in zip(ids, kwargs, strict, loose, strict=True)
    ]
    facts = {
        "completion_tokens": row.get("completion_tokens"),
        "expert_completion_tokens": row.get("expert_completion_tokens"),
        "finish_reason": row.get("finish_reason"),
        "logprob_mean": row.get("logprob_mean"),
        "expert_logprob_mean": row.get("expert_logprob_mean"),
        **_mapping(row.get("metrics")),
        **{f"extra/{name}": value for name, value in _mapping(row.get("extra")).items()},
    }
    return {
        "key": str(row.get("key", "")),
        "prompt": texts.add(row["prompt"]),
        "policy": texts.add(row["response"]),
        "expert": texts.add(row.get("expert_completion")),
        "passed": _truth(row.get("follow_all_strict")),
        "checks": checks,
        "facts": _known(facts),
    }


def _rollout_row(row: Row, texts: _Texts) -> dict[str, Any]:
    checks = [
        [str(check.get("id")), _kwargs(check.get("kwargs")), _truth(check.get("followed")), None]
        for check in row.get("instructions") or []
        if isinstance(check, Mapping)
    ]
    verdicts = [check[2] for check in checks]
    facts = {
        "reward": row.get("reward"),
        **{f"reward/{name}": v for name, v in _mapping(row.get("reward_breakdown")).items()},
        **{f"extra/{name}": value for name, value in _mapping(row.get("extra")).items()},
        "advantage": row.get("advantage"),
        "discriminator_logit": row.get("discriminator_logit"),
        "finish_reason": row.get("finish_reason"),
    }
    return {
        "key": f"step {row['step']}",
        "step": row["step"],
        "prompt": texts.add(row["prompt"]),
        "policy": texts.add(row["completion"]),
        "expert": texts.add(row.get("expert_completion")),
        "passed": None if not verdicts or None in verdicts else all(verdicts),
        "checks": checks,
        "facts": _known(facts),
    }


def _padded(values: object, length: int) -> list[Any]:
    found = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    return (found + [None] * length)[:length]


def _kwargs(given: object) -> dict[str, Any]:
    return _known(_mapping(given))


def _mapping(value: object) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is null (IFEval's files list every argument of every checker) and round."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None
    }


def _truth(value: object) -> bool | None:
    return None if value is None else bool(value)
