"""A whole step against separately written losses, token by token, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_exactly_zero,
    assert_same_gradients,
    exact_policy,
    mixed_batch,
    plain_logprobs,
    rewards,
    rollout,
    sampled_elsewhere,
    sequences_of,
)
from one_step import (
    WEIGHTS,
    Step,
    demonstrations,
    in_double,
    plain_tokens,
    recipe,
    reference,
    total,
)
from torch import Tensor

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.types import RolloutBatch

__all__ = ["in_double"]

OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "without truncated": {"rollout": {"mask_truncated": True}},
    "signal": {"objective": {"reward_normalisation": "signal"}},
    "constant": {"objective": {"reward_normalisation": "constant"}},
    "signal, without truncated": {
        "rollout": {"mask_truncated": True},
        "objective": {"reward_normalisation": "signal"},
    },
    "constant, without truncated": {
        "rollout": {"mask_truncated": True},
        "objective": {"reward_normalisation": "constant"},
    },
    "batch": {"objective": {"advantage_scale": "batch"}},
    "unscaled": {"objective": {"advantage_scale": "none"}},
    "gspo": {"objective": {"policy_gradient": "gspo"}},
    "cispo": {"objective": {"policy_gradient": "cispo"}},
}


def masking() -> Recipe:
    """Truncated rollouts are left out."""
    return recipe(rollout={"mask_truncated": True})


def plain_old(batch: RolloutBatch) -> list[Tensor]:
    """Log π_old of each rollout, π_old being the policy at its start."""
    model = exact_policy().model
    return [plain_logprobs(model, s, 0.7).detach() for s in sequences_of(batch)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_first_update_equals_separately_written_losses(options: dict[str, Any]) -> None:
    """In several micro-batches; that their number changes nothing is another test."""
    step = Step(mixed_batch(), recipe_=recipe(25, **options))
    metrics = step()
    assert step.optimizer.num_steps == 1
    loss, expected, _ = reference(step, exact_policy())
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, total(expected))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_later_update_equals_separately_written_losses(options: dict[str, Any]) -> None:
    """The policy has moved since it sampled."""
    batch = mixed_batch()
    step = Step(batch, moves=True, recipe_=recipe(25, **options))
    old = plain_old(batch)
    step()
    now = step.policy.trainable_copy()
    metrics = step(torch.cat(old))
    loss, expected, cut = reference(step, now, old)
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, total(expected))
    assert 0 < sum(cut) < len(cut)
    # CISPO clips the ratio and keeps every token's gradient
    is_cispo = step.recipe.config.objective.policy_gradient == "cispo"
    assert_close(metrics["policy/clip_fraction"], 0.0 if is_cispo else sum(cut) / len(cut))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("policy_gradient", ["ppo", "gspo", "cispo"])
def test_importance_weights_act_up_to_the_cap(policy_gradient: str, is_first: bool) -> None:
    batch = sampled_elsewhere(mixed_batch())
    options = {
        "rollout": {"importance_cap": 1.5},
        "objective": {"policy_gradient": policy_gradient},
    }
    step = Step(batch, moves=not is_first, recipe_=recipe(**options))
    old = None if is_first else plain_old(batch)
    if old:
        step()
    now = step.policy.trainable_copy()
    metrics = step(torch.cat(old) if old else None)
    loss, expected, _ = reference(step, now, old)
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, total(expected))
    if is_first:
        without = gradients_of(batch, recipe_=recipe(objective=options["objective"]))
        assert any((g - without[name]).abs().max() > 1e-3 for name, g in step.gradients.items())


def test_the_dual_clip_acts() -> None:
    """A policy that is much likelier to sample a bad completion than π_old was: its ratio is far above 3."""
    batch = mixed_batch()
    old = [own - 2.0 for own in plain_old(batch)]
    step = Step(batch)
    metrics = step(torch.cat(old))
    loss, expected, cut = reference(step, exact_policy(), old)
    assert metrics["policy/clip_fraction"] == 1.0
    assert all(cut)
    assert_close(metrics["objective/loss"], loss)
    assert_same_gradients(step.gradients, total(expected))


def test_one_micro_batch_equals_many() -> None:
    results = []
    for tokens in (1, 17, 10_000):
        step = Step(mixed_batch(), recipe_=recipe(tokens))
        metrics = step()
        del metrics["data/trained_tokens"]
        results.append((metrics, step.gradients))
    for metrics, found in results[1:]:
        assert_same_metrics(metrics, results[0][0])
        assert_same_gradients(found, results[0][1])


def assert_same_metrics(actual: dict[str, float | None], expected: dict[str, float | None]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
        else:
            assert_close(actual[name], value)


def minus(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name] - second[name] for name in first}


def gradients_of(batch: RolloutBatch | None, **settings: Any) -> dict[str, Tensor]:
    step = Step(batch, **settings)
    step()
    return step.gradients


def test_no_term_dilutes_another() -> None:
    both = gradients_of(mixed_batch())
    rollouts_only = gradients_of(mixed_batch(), weights=replace(WEIGHTS, sft=0.0))
    expert_only = gradients_of(None)
    assert_same_gradients(minus(both, rollouts_only), expert_only)
    # the same demonstrations twice: the mean over their tokens is the same
    twice = gradients_of(mixed_batch(), experts=[*demonstrations(), *demonstrations()])
    assert_same_gradients(twice, both)


def test_masked_truncation_enters_no_count_and_no_term() -> None:
    """Another text, three times as long, in place of the masked one changes nothing."""
    batch = mixed_batch()
    cut = batch.rollouts[2]
    assert cut.is_truncated
    longer = rollout(cut.prompt, *range(14, 29), cut=True)
    other = replace(batch, rollouts=(*batch.rollouts[:2], longer, *batch.rollouts[3:]))
    steps = []
    for one in (batch, other):
        step = Step(one, has_credit=False, recipe_=masking())
        metrics = step()
        steps.append(({n: v for n, v in metrics.items() if n not in SEEN_OF_ANY}, step.gradients))
    assert_same_metrics(steps[0][0], steps[1][0])
    assert_same_gradients(steps[1][1], steps[0][1])


SEEN_OF_ANY = {
    "data/trained_tokens",
    "data/sampled_tokens",
    "rollout/completion_tokens_mean",
}
"""Metrics that tell lengths of masked rollouts too."""


def only_rollouts(**changes: float) -> TermWeights:
    return replace(TermWeights(sft=0.0, grpo=1.0, adversarial=0.4, kl=0.0), **changes)


@pytest.mark.parametrize("normalisation", ["tokens", "signal", "constant"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, -0.7, None])
def test_equal_rewards_give_exactly_zero_gradient(reward: float | None, normalisation: str) -> None:
    """None: no reward function has an opinion."""
    batch = replace(mixed_batch(), rewards=rewards(*[reward] * 12))
    made: Recipe = recipe(objective={"reward_normalisation": normalisation})
    assert_exactly_zero(
        gradients_of(batch, weights=only_rollouts(), has_credit=False, recipe_=made)
    )
    without_reward_term = gradients_of(mixed_batch(), weights=only_rollouts(grpo=0.0))
    assert_same_gradients(
        gradients_of(batch, weights=only_rollouts(), recipe_=made), without_reward_term
    )


def test_all_truncated_is_zero_and_finite() -> None:
    batch = mixed_batch()
    cut = tuple(replace(r, finish_reason="length") for r in batch.rollouts)
    batch = replace(batch, rollouts=cut)
    step = Step(batch, weights=only_rollouts(kl=0.05), has_credit=False, recipe_=masking())
    metrics = step()
    assert step.optimizer.num_steps == 0
    assert metrics["objective/loss"] == 0.0
    assert metrics["policy/entropy"] is None
    masked = gradients_of(batch, has_credit=False, recipe_=masking())
    assert_same_gradients(masked, gradients_of(None))


def test_discriminator_at_weight_zero_changes_nothing() -> None:
    silent = replace(WEIGHTS, adversarial=0.0)
    with_credit = gradients_of(mixed_batch(), weights=silent)
    without = gradients_of(mixed_batch(), weights=silent, has_credit=False)
    assert all(torch.equal(with_credit[name], without[name]) for name in without)


def test_each_term_says_how_much_of_the_update_it_can_cause() -> None:
    step = Step(mixed_batch())
    metrics = step()
    tokens = [token for _, token, _ in plain_tokens(step, exact_policy(), None)]
    assert_close(metrics["objective/grpo_token_weights"], sum(abs(t.reward_weight) for t in tokens))
    assert_close(
        metrics["objective/adversarial_token_weights"], sum(abs(t.expert_weight) for t in tokens)
    )
    assert metrics["objective/sft_token_weights"] == WEIGHTS.sft
