"""What the numbers about a discriminator mean, each computed by hand."""

from dataclasses import replace

import pytest
import torch
from exact import (
    assert_close,
    drawn,
    likelihood,
    mixed_batch,
    per_rollout,
    policy_logprobs,
    scalar,
    sequences_of,
)
from torch import Tensor

from uniapl.discriminators.health import step_health
from uniapl.types import RolloutBatch

pytestmark = pytest.mark.usefixtures("in_double")


def correlation(rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Both centred in their group, then pooled."""
    centred = [(a - a.mean(), b - b.mean()) for a, b in rows]
    first, second = (torch.cat(column) for column in zip(*centred, strict=True))
    return (first @ second) / (first.norm() * second.norm())


REPEATED = [*(0.0, 0.5, 0.0), *(0.75, 0.0, 0.0), *(0.0, 0.5, 0.75), *(0.0, 0.0, 0.0)]
"""Share of 3-grams of each rollout's text that occurred before in it."""


def with_repetition(batch: RolloutBatch) -> RolloutBatch:
    """Texts of one word alone, whose 3-grams are all the same, or of too few words for a second one."""
    texts = {0.0: "sea", 0.5: "sea sea sea sea", 0.75: "sea sea sea sea sea sea"}
    rollouts = zip(batch.rollouts, REPEATED, strict=True)
    return replace(
        batch, rollouts=tuple(replace(r, completion=texts[share]) for r, share in rollouts)
    )


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_health_by_hand(form: str) -> None:
    batch = with_repetition(mixed_batch())
    made = scalar() if form == "scalar" else likelihood()
    judgement = made.judge(batch, drawn(), policy_logprobs)
    old = policy_logprobs(sequences_of(batch))
    held_out = {"discriminator/held_out_log_ratio": 0.75} if form == "likelihood" else {}
    health = step_health(batch, judgement, old, held_out)
    if form == "scalar":
        assert judgement.logits_GxN is not None
        logits = judgement.logits_GxN
        # the first group's last one is cut off
        counted = [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    else:
        assert judgement.expert_logprobs_T is not None
        ratios = judgement.expert_logprobs_T - old
        logits = torch.stack([k.mean() for k in per_rollout(ratios, batch)]).view(-1, 3)
        counted = [[0, 1, 2]] * 4
        assert_close(health["discriminator/log_ratio"], ratios.mean())
        assert_close(health["discriminator/margin"], 0.75 - ratios.mean())
        assert health["discriminator/held_out_log_ratio"] == 0.75
    kept = [row[own] for row, own in zip(logits, counted, strict=True)]
    assert_close(health["discriminator/demonstration_logit"], torch.cat(kept[:2]).mean())
    assert_close(health["discriminator/preference_logit"], torch.cat(kept[2:]).mean())
    assert_close(health["discriminator/group_std"], sum(row.std() for row in kept) / 4)
    lengths = torch.tensor([float(len(r.token_ids)) for r in batch.rollouts]).view(-1, 3)
    rows = [(a, b[own]) for a, b, own in zip(kept, lengths, counted, strict=True)]
    assert_close(health["discriminator/length_correlation"], correlation(rows))
    repeated = torch.tensor(REPEATED).view(-1, 3)
    rows = [(a, b[own]) for a, b, own in zip(kept, repeated, counted, strict=True)]
    assert_close(health["discriminator/repetition_correlation"], correlation(rows))
    rewarded = [[0, 1] if form == "scalar" else [0, 1, 2], [0, 2], [0, 1, 2]]
    earned = [r.total for r in batch.rewards]
    rows = [
        (logits[g][own], torch.tensor([earned[3 * g + i] for i in own]))
        for g, own in zip((0, 1, 3), rewarded, strict=True)
    ]
    assert_close(health["discriminator/reward_correlation"], correlation(rows))
    assert set(judgement.health) <= set(health)
