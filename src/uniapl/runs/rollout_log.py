"""Rows of `rollouts/step_*.jsonl`: a few completions of a step with all that was said about them."""

from typing import Any

from uniapl.discriminators.health import completion_logits
from uniapl.instructions import strict
from uniapl.models.packing import completion_offsets
from uniapl.training.step import StepResult


def logged_rows(done: StepResult, count: int) -> list[dict[str, Any]]:
    """Return `count` rollouts of a step, those of different groups first, then their siblings."""
    batch, tokens = done.rollouts, done.tokens
    if batch is None or tokens is None:
        return []
    size = batch.group_size
    order = [g * size + member for member in range(size) for g in range(batch.num_groups)]
    judged = done.judgement
    logits = judged and completion_logits(batch, judged, done.old_logprobs_T).flatten().tolist()
    starts = completion_offsets(tokens.sequences)
    rows: list[dict[str, Any]] = []
    for index in order[:count]:
        rollout, reward = batch.rollouts[index], batch.rewards[index]
        expert = batch.experts[index // size]
        columns = rollout.prompt.columns
        ids, kwargs = columns.get("instruction_id_list"), columns.get("kwargs")
        followed = strict(ids, kwargs, rollout.answer) if ids and kwargs else ()
        advantage = tokens.reward_advantages_T[starts[index]].item()
        logit = logits[index] if logits else None
        rows.append(
            {
                "prompt_id": rollout.prompt.id,
                "prompt": rollout.prompt.text,
                "completion": rollout.completion,
                "finish_reason": rollout.finish_reason,
                "reward": reward.total,
                "reward_breakdown": dict(reward.breakdown),
                **({"extra": dict(reward.extra)} if reward.extra else {}),
                "advantage": advantage,
                "discriminator_logit": logit,
                "expert_completion": expert.completion if expert else None,
                "instructions": [
                    {"id": name, "kwargs": values, "followed": passed}
                    for name, values, passed in zip(ids or (), kwargs or (), followed, strict=False)
                ],
            }
        )
    return rows
