"""`scalar`: what it ranks, what it learns, and what a completion earns by it."""

import math
from dataclasses import replace

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    demonstration,
    drawn,
    gradients,
    mixed_batch,
    per_rollout,
    plain_scalar_logit,
    policy_logprobs,
    prompt,
    rollout,
    scalar,
    sequences_of,
)
from torch import Tensor
from torch.nn import functional

from uniapl.discriminators import Judgement
from uniapl.discriminators.scalar import Scalar
from uniapl.discriminators.scoring import STD_FLOOR
from uniapl.models.packing import sequence_of
from uniapl.types import MixedBatch, RolloutBatch

pytestmark = pytest.mark.usefixtures("in_double")


def judge(made: Scalar, batch: RolloutBatch) -> Judgement:
    return made.judge(batch, drawn(), policy_logprobs)


def plain_pairs(made: Scalar, batch: RolloutBatch) -> list[tuple[Tensor, Tensor]]:
    """d of the expert and of each whole rollout of its prompt, by plain forwards."""
    pairs = []
    for i, sample in enumerate(batch.rollouts):
        expert = batch.experts[i // batch.group_size]
        if expert is None or sample.is_truncated:
            continue
        own = plain_scalar_logit(made.model, sequence_of(sample))
        pairs.append((plain_scalar_logit(made.model, sequence_of(expert)), own))
    return pairs


@pytest.mark.parametrize("backbone", ["copy", "lora"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_logits_loss_and_gradient_equal_plain_forwards(
    micro_batch_tokens: int, backbone: str
) -> None:
    batch, made = mixed_batch(), scalar(micro_batch_tokens, backbone=backbone)
    judgement = judge(made, batch)
    actual = gradients(made.model)
    pairs = plain_pairs(made, batch)
    assert len(pairs) == 5
    loss = torch.stack([functional.softplus(worse - better) for better, worse in pairs]).mean()
    loss.backward()
    logits = [plain_scalar_logit(made.model, s).detach() for s in sequences_of(batch)]
    assert_close(judgement.logits_GxN, torch.stack(logits).view(-1, 3))
    health = judgement.health
    assert_close(health["discriminator/loss"], loss.item())
    right = [float(better > worse) for better, worse in pairs]
    assert 0 < sum(right) < len(right)
    assert_close(health["discriminator/accuracy"], sum(right) / 5)
    assert_close(
        health["discriminator/pair_margin"], sum(b.item() - w.item() for b, w in pairs) / 5
    )
    assert_same_gradients(actual, gradients(made.model))


@pytest.mark.parametrize("backbone", ["copy", "lora"])
def test_a_score_does_not_depend_on_learning_from_it(backbone: str) -> None:
    batch = replace(mixed_batch(), rewards=())
    made = scalar(backbone=backbone)
    measured = made.measure(batch, policy_logprobs)
    assert all(p.grad is None for p in made.model.parameters())
    judged = judge(made, batch).health
    for name in ("accuracy", "pair_margin"):
        assert measured[f"discriminator/held_out_{name}"] == judged[f"discriminator/{name}"]
    assert set(measured) == {
        "discriminator/held_out_accuracy",
        "discriminator/held_out_pair_margin",
    }
    made.learn(1e-3)
    after = judge(made, batch).health
    assert after["discriminator/loss"] < judged["discriminator/loss"]
    assert made.measure(RolloutBatch((), 3, ()), policy_logprobs) == {}


def test_first_loss_is_log_2() -> None:
    made = scalar()
    torch.nn.init.zeros_(made.model.head.weight)
    health = judge(made, mixed_batch()).health
    assert_close(health["discriminator/loss"], math.log(2))
    assert health["discriminator/accuracy"] == 0.5


def expected_credit(judgement: Judgement, batch: RolloutBatch, running: float) -> list[float]:
    values: list[float] = []
    assert judgement.logits_GxN is not None
    for i, sample in enumerate(batch.rollouts):
        group = range(i // 3 * 3, i // 3 * 3 + 3)
        whole = [j for j in group if not batch.rollouts[j].is_truncated]
        counted = judgement.logits_GxN.flatten()[whole]
        centred = judgement.logits_GxN.flatten()[i] - counted.mean()
        scale = max(counted.std().item(), running, STD_FLOOR)
        values += [0.0 if sample.is_truncated else centred.item() / scale] * len(sample.token_ids)
    return values


def spread(judgement: Judgement) -> float:
    """Mean of the group deviations; the first group's third rollout is cut off."""
    assert judgement.logits_GxN is not None
    rows = [judgement.logits_GxN[0, :2], *judgement.logits_GxN[1:]]
    return sum(row.std().item() for row in rows) / 4


def test_credit_is_centred_and_scaled_by_the_running_std() -> None:
    batch, made = mixed_batch(), scalar()
    everything = torch.arange(batch.num_tokens)
    old = torch.zeros(batch.num_tokens)
    first = judge(made, batch)
    mean = spread(first)
    assert mean > STD_FLOOR
    assert_close(made.running_std, mean)
    assert_close(first.credit(everything, old), expected_credit(first, batch, mean))
    places = torch.tensor([9, 2])
    assert_close(first.credit(places, old[places]), first.credit(everything, old)[places])
    # nothing but noise afterwards: the past deviation keeps it small
    made.model.head.weight.data.mul_(1e-3)
    noise = judge(made, batch)
    running = 0.9 * mean + 0.1 * mean * 1e-3
    assert_close(made.running_std, running)
    assert_close(noise.credit(everything, old), expected_credit(noise, batch, running))
    assert noise.credit(everything, old).abs().max() < 0.01


def test_a_truncated_rollout_is_neither_ranked_nor_credited() -> None:
    """Another text in its place changes neither loss nor gradient nor anyone's credit."""
    found = []
    for ids in ((16, 17, 18, 19, 20), (33,)):
        batch = mixed_batch()
        cut = rollout(batch.rollouts[2].prompt, *ids, cut=True)
        batch = replace(batch, rollouts=(*batch.rollouts[:2], cut, *batch.rollouts[3:]))
        made = scalar()
        judgement = judge(made, batch)
        credit = per_rollout(judgement.credit_T, batch)  # type: ignore[arg-type]
        credited = per_rollout(judgement.is_credited_T, batch)
        assert [flags.all() for flags in credited] == [i != 2 for i in range(12)]
        others = torch.cat([c for i, c in enumerate(credit) if i != 2])
        found.append((judgement.health, gradients(made.model), others))
    assert_close(list(found[0][0].values()), list(found[1][0].values()))
    assert_same_gradients(found[0][1], found[1][1])
    assert_close(found[0][2], found[1][2])


def test_where_all_are_truncated_nothing_is_learned() -> None:
    batch = mixed_batch()
    cut = tuple(replace(r, finish_reason="length") for r in batch.rollouts)
    batch = replace(batch, rollouts=cut)
    made = scalar()
    made.running_std = 2.0
    before = [p.detach().clone() for p in made.learner.parameters]
    judgement = judge(made, batch)
    assert judgement.health == {"discriminator/loss": 0.0}
    assert not judgement.is_credited_T.any()
    assert not judgement.credit_T.any()  # type: ignore[union-attr]
    assert made.learn(0.1) == {"optimizer/discriminator_grad_norm": 0.0}
    assert made.running_std == 2.0
    assert all(torch.equal(p, old) for p, old in zip(made.learner.parameters, before, strict=True))


def test_separable_data_is_told_apart() -> None:
    prompts = [prompt(5 + i, 6) for i in range(4)]
    batch = RolloutBatch(
        tuple(rollout(p, 14 + i + j, 15, 4) for i, p in enumerate(prompts) for j in range(2)),
        group_size=2,
        experts=tuple(demonstration(p, 30 + i, 31, 4) for i, p in enumerate(prompts)),
    )
    made = scalar()
    losses = []
    for _ in range(12):
        losses.append(
            made.judge(batch, MixedBatch((), ()), policy_logprobs).health["discriminator/loss"]
        )
        made.learn(0.01)
    found = made.measure(batch, policy_logprobs)
    assert found["discriminator/held_out_accuracy"] == 1.0
    assert found["discriminator/held_out_pair_margin"] > 1.0
    assert losses[-1] < losses[0] / 2
