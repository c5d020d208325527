"""`likelihood`: what p_φ learns, what it tells of rollouts, and where it ends up."""

from dataclasses import replace

import pytest
import torch
from exact import (
    EXPERTS,
    TEMPERATURE,
    assert_close,
    assert_exactly_zero,
    assert_same_gradients,
    config,
    demonstration,
    drawn,
    exact_policy,
    gradients,
    likelihood,
    mixed_batch,
    plain_logprobs,
    policy_logprobs,
    prompt,
    rollout,
    sequences_of,
)
from torch import Tensor
from trainers import make_trainer

from uniapl.config.recipe import Recipe
from uniapl.discriminators.likelihood import Likelihood
from uniapl.models.packing import TokenSequence, pack, sequence_of
from uniapl.training.batch import flat_logprobs
from uniapl.types import MixedBatch, RolloutBatch

pytestmark = pytest.mark.usefixtures("in_double")


@pytest.mark.parametrize("backbone", ["copy", "lora"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_it_learns_every_demonstration_of_the_step_by_likelihood_alone(
    micro_batch_tokens: int, backbone: str
) -> None:
    """The third demonstration is in no pair; rollouts leave no gradient."""
    made = likelihood(micro_batch_tokens, backbone=backbone)
    judgement = made.judge(mixed_batch(), drawn(), policy_logprobs)
    actual = gradients(made.model)
    loss = -torch.cat([plain_logprobs(made.model.model, sequence_of(d)) for d in EXPERTS]).mean()
    loss.backward()
    assert_close(judgement.health["discriminator/loss"], loss.item())
    assert_same_gradients(actual, gradients(made.model))
    # other rollouts: the same gradient
    batch = mixed_batch()
    batch = replace(batch, rollouts=batch.rollouts[::-1])
    made.judge(batch, drawn(), policy_logprobs)
    assert_same_gradients(gradients(made.model), actual)


def test_the_trainer_hands_it_all_demonstrations_that_the_policy_learns_from() -> None:
    trainer = make_trainer("uniapl")
    made = trainer.players.discriminator
    assert isinstance(made, Likelihood)
    start = made.model.trainable_copy()
    result = trainer.train_step()
    first = make_trainer("uniapl").mixture.next_batch(4, 2)
    expected = [plain_logprobs(start.model, sequence_of(d)) for d in first.demonstrations]
    assert_close(result.metrics["discriminator/loss"], -torch.cat(expected).mean())
    assert sum(e is not None for e in result.rollouts.experts) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_credit_is_the_clamped_log_ratio_at_the_rollouts_temperature(
    micro_batch_tokens: int,
) -> None:
    batch = mixed_batch()
    made = likelihood(micro_batch_tokens, credit_clamp=0.25)
    judgement = made.judge(batch, drawn(), policy_logprobs)
    own = [plain_logprobs(made.model.model, s, TEMPERATURE).detach() for s in sequences_of(batch)]
    assert judgement.expert_logprobs_T is not None
    assert_close(judgement.expert_logprobs_T, torch.cat(own))
    assert judgement.is_credited_T.all()  # truncated ones too
    old = policy_logprobs(sequences_of(batch))
    places = torch.tensor([7, 0, 12, 3])
    expected = (torch.cat(own) - old).clamp(-0.25, 0.25)
    assert_close(judgement.credit(places, old[places]), expected[places])
    assert (expected.min(), expected.max()) == (-0.25, 0.25)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_where_expert_and_policy_are_one_credit_and_gradient_are_exactly_zero(
    temperature: float,
) -> None:
    """p_φ starts as the policy: nothing pulls, whatever the temperature. At another one it would."""
    trainer = make_trainer(
        "uniapl",
        rollout={"temperature": temperature},
        data={"held_out_demonstrations": 0},
        objective={"sft_weight": 0.0, "grpo_weight": 0.0},
    )
    result = trainer.train_step()
    judgement, old = result.judgement, result.old_logprobs_T
    assert judgement is not None
    credit = judgement.credit(torch.arange(len(old)), old)
    assert torch.count_nonzero(credit) == 0
    assert result.metrics["discriminator/log_ratio"] == 0.0
    assert result.metrics["objective/adversarial_weight"] > 0  # type: ignore[operator]
    assert result.metrics["objective/adversarial_token_weights"] == 0.0
    start = exact_policy().state_dict()
    assert_exactly_zero({n: p - start[n] for n, p in trainer.players.policy.state_dict().items()})
    # the next step's p_φ has learned
    assert trainer.train_step().metrics["objective/adversarial_token_weights"] > 0  # type: ignore[operator]


def test_the_margin_compares_held_out_demonstrations_with_rollouts() -> None:
    made = likelihood()
    batch = mixed_batch()
    held_out = RolloutBatch((), 3, EXPERTS[1:])
    found = made.measure(held_out, policy_logprobs)
    ratios = [
        plain_logprobs(made.model.model, sequence_of(d), TEMPERATURE)
        - plain_logprobs(exact_policy().model, sequence_of(d), TEMPERATURE)
        for d in EXPERTS[1:]
    ]
    assert_close(found["discriminator/held_out_log_ratio"], torch.cat(ratios).mean())
    assert set(found) == {"discriminator/held_out_log_ratio"}
    assert made.measure(RolloutBatch((), 3, ()), policy_logprobs) == {}
    assert len(batch.rollouts) == 12


A, B = 14, 15
SHARE = 0.8
"""Of A in what the expert writes: its tokens are independent, whatever came before."""
STEPS = 70


def expert_texts(count: int, length: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.where(torch.rand(length, generator=generator) < SHARE, A, B) for _ in range(count)
    ]


@pytest.mark.parametrize("length", [4, 40])
def test_log_ratios_tend_to_those_of_expert_and_policy_at_any_length(length: int) -> None:
    """Trained long on many texts of a known expert, k_t is log p_expert - log π: nothing is exaggerated.

    Ranked by mean log-ratios, as earlier versions did, completions of 40 tokens would get ratios far too large.
    """
    recipe = Recipe.of(config(rollout={"temperature": 1.0}))
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    policy = exact_policy(seed=1, **small)
    made = Likelihood(recipe, exact_policy(seed=1, **small))
    asked = prompt(5)

    def batch_of(texts: list[Tensor]) -> MixedBatch:
        return MixedBatch(tuple(demonstration(asked, *t.tolist()) for t in texts), ())

    fresh = expert_texts(16, length, seed=1)
    sequences = [TokenSequence(asked.token_ids, tuple(t.tolist())) for t in fresh]
    held_out = RolloutBatch((), 1, batch_of(fresh).demonstrations)

    def logprobs(of: list[TokenSequence] | tuple[TokenSequence, ...]) -> Tensor:
        return flat_logprobs(policy, list(of), recipe)

    some = RolloutBatch((rollout(asked, A, B),), 1, (None,))
    for step in range(STEPS):
        texts = expert_texts(480 // length, length, seed=2 + step)
        made.judge(some, batch_of(texts), logprobs)
        made.learn(0.05 * (1 - step / STEPS))
    tokens = torch.cat(fresh)
    log_expert = torch.where(tokens == A, SHARE, 1 - SHARE).log()
    ideal = log_expert - logprobs(sequences)
    (packed,) = pack(sequences, 10_000)
    learned = made.model.flat_logprobs([packed], len(tokens)) - logprobs(sequences)
    found = made.measure(held_out, logprobs)["discriminator/held_out_log_ratio"]
    assert ideal.mean() > 1.0  # nats per token: there is something to exaggerate
    assert found == pytest.approx(ideal.mean().item(), rel=0.03)
    assert (learned - ideal).abs().mean() < 0.1  # what 70 batches leave of chance
