"""Rows of `rollouts/step_*.jsonl`: a few completions of a step with all that was said about them."""

from typing import Any

from uniapl.instructions import strict
from uniapl.training.discriminator import Verdicts
from uniapl.training.rollout_batch import RolloutBatch
from uniapl.training.update import WeightedTokens


def logged_rows(
    batch: RolloutBatch, tokens: WeightedTokens | None, verdicts: Verdicts | None, count: int
) -> list[dict[str, Any]]:
    """Return `count` rollouts of different groups first, then their siblings."""
    size = batch.group_size
    order = [g * size + member for member in range(size) for g in range(batch.num_groups)]
    starts = batch.offsets()
    rows: list[dict[str, Any]] = []
    for index in order[:count]:
        rollout, reward = batch.rollouts[index], batch.rewards[index]
        group = index // size
        columns = rollout.prompt.columns
        ids, kwargs = columns.get("instruction_id_list"), columns.get("kwargs")
        followed = strict(ids, kwargs, rollout.answer) if ids and kwargs else ()
        advantage = tokens.reward_advantages[starts[index]].item() if tokens else None
        logit = verdicts.rollout_logits.flatten()[index].item() if verdicts else None
        rows.append(
            {
                "prompt_id": rollout.prompt.id,
                "prompt": rollout.prompt.text,
                "completion": rollout.completion,
                "finish_reason": rollout.finish_reason,
                "reward": reward.total,
                "reward_breakdown": dict(reward.breakdown),
                "advantage": advantage,
                "discriminator_logit": logit,
                "expert_completion": (
                    batch.experts[group].completion
                    if group < batch.num_pairs and batch.experts
                    else None
                ),
                "instructions": [
                    {"id": name, "kwargs": values, "followed": passed}
                    for name, values, passed in zip(ids or (), kwargs or (), followed, strict=False)
                ],
            }
        )
    return rows
