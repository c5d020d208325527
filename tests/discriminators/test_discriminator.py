import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import (
    TEMPERATURE,
    assert_close,
    assert_same_gradients,
    config,
    demonstration,
    discriminator,
    double,
    exact_policy,
    gradients,
    judged_batch,
    mixed_batch,
    plain_logits,
    plain_logprobs,
    plain_loss,
    prompt,
    rollout,
)
from torch import Tensor, nn
from uniapl.training.discriminator import Discriminator
from uniapl.training.rollout_batch import RolloutBatch

from uniapl.models.packing import pack
from uniapl.models.scalar_model import ScalarModel
from uniapl.objective.reductions import group_correlation
from uniapl.training.setup import other_roles, prepare_policy
from uniapl.training.update import PolicyUpdate, StepWeights, no_gradient_logprobs, weigh_tokens
from uniapl.types import InputError, TrainingError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("scalar", {}),
    ("scalar", {"label_smoothing": 0.1, "logit_penalty": 0.02}),
    ("scalar", {"pairs_per_prompt": 1}),
    ("likelihood", {}),
    ("likelihood", {"pairs_per_prompt": None}),
    ("likelihood", {"likelihood_weight": 0.0, "label_smoothing": 0.2, "logit_penalty": 0.01}),
    ("scalar", {"backbone": "lora"}),
    ("likelihood", {"backbone": "lora"}),
]


@pytest.mark.parametrize(("form", "settings"), SETTINGS)
@pytest.mark.parametrize("mask_truncated", [True, False])
@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_logits_loss_and_gradient_equal_plain_forwards(
    form: str, settings: dict[str, Any], mask_truncated: bool, micro_batch_tokens: int
) -> None:
    batch = judged_batch(mask_truncated=mask_truncated)
    made = discriminator(form, micro_batch_tokens, **settings)
    verdicts = made.judge(batch, learn=True)
    actual = gradients(made.model)
    logits = plain_logits(made, batch)
    loss = plain_loss(made, batch, logits)
    loss.backward()
    num = len(batch.rollouts)
    assert_close(verdicts.rollout_logits, torch.stack(logits[:num]).view(-1, 3).detach())
    assert_close(verdicts.expert_logits, torch.stack(logits[num : num + 2]).detach())
    assert_close(verdicts.health["discriminator/loss"], loss.item())
    assert_same_gradients(actual, gradients(made.model))


@pytest.mark.parametrize("backbone", ["copy", "lora"])
@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_a_score_does_not_depend_on_learning_from_it(form: str, backbone: str) -> None:
    batch = judged_batch()
    made = discriminator(form, backbone=backbone)
    before = made.judge(batch, learn=False)
    assert all(p.grad is None for p in made.parameters)
    learning = made.judge(batch, learn=True)
    assert learning.rollout_logits.tolist() == before.rollout_logits.tolist()
    assert learning.expert_logits.tolist() == before.expert_logits.tolist()
    loss = learning.health.pop("discriminator/loss")
    assert learning.health == before.health
    made.learn()
    after = made.judge(batch, learn=True)
    assert not torch.allclose(after.rollout_logits, before.rollout_logits)
    # the second pass knows these rollouts: it has a loss, but no accuracy to report
    assert set(after.health) == {"discriminator/loss"}
    assert after.health["discriminator/loss"] < loss
    assert "discriminator/accuracy" in made.judge(judged_batch(), learn=False).health


def test_first_loss_is_log_2() -> None:
    batch = judged_batch()
    made = discriminator("scalar")
    assert isinstance(made.model, ScalarModel)
    torch.nn.init.zeros_(made.model.head.weight)
    health = made.judge(batch, learn=True).health
    assert_close(health["discriminator/loss"], math.log(2))
    assert health["discriminator/accuracy"] == 0.5
    # the likelihood form starts as the policy: all ratios are 0 at temperature 1
    made = discriminator("likelihood", likelihood_weight=0.0)
    assert not isinstance(made.model, ScalarModel)
    made.model.load_state_dict(exact_policy().state_dict())
    batch.old_logprobs = no_gradient_logprobs(exact_policy(), batch.sequences, 30, 1.0)
    verdicts = made.judge(batch, learn=True)
    assert_close(verdicts.health["discriminator/loss"], math.log(2))
    assert verdicts.ratios is not None
    assert verdicts.ratios.abs().max() < 1e-9


def test_ratios_are_those_of_the_rollouts_in_order() -> None:
    batch = judged_batch()
    made = discriminator("likelihood", 25)
    assert not isinstance(made.model, ScalarModel)
    ratios = made.judge(batch, learn=True).ratios
    assert ratios is not None
    expected = [
        plain_logprobs(made.model.model, s).detach()
        - plain_logprobs(exact_policy().model, s, TEMPERATURE).detach()
        for s in batch.rollout_sequences
    ]
    assert_close(ratios, torch.cat(expected))
    assert_close(
        made.credit(batch, made.judge(batch, learn=False)), torch.cat(expected).clamp(-3, 3)
    )
    small = discriminator("likelihood", credit_clamp=0.25)
    credit = small.credit(batch, small.judge(batch, learn=False))
    assert (credit.min(), credit.max()) == (-0.25, 0.25)


def test_likelihood_credit_per_completion_is_centred_in_nats_without_std() -> None:
    batch = judged_batch()
    made = discriminator("likelihood", credit="completion")
    verdicts = made.judge(batch, learn=False)
    assert verdicts.ratios is not None
    per_sequence = verdicts.ratios.split([len(r.token_ids) for r in batch.rollouts])
    means = [k.mean() for k in per_sequence]
    expected = []
    for i, ratios in enumerate(per_sequence):
        group = range(i // 3 * 3, i // 3 * 3 + 3)
        counted = [means[j] for j in group if not batch.rollouts[j].is_truncated]
        centre = sum(counted) / len(counted)
        value = 0.0 if batch.rollouts[i].is_truncated else (means[i] - centre).item()
        expected += [value] * len(ratios)
    assert_close(made.credit(batch, verdicts), expected)
    assert made.running_std is None


def test_scalar_credit_is_scaled_by_the_running_std() -> None:
    batch = judged_batch()
    made = discriminator("scalar", std_floor=1e-6)
    verdicts = made.judge(batch, learn=False)
    lengths = [len(r.token_ids) for r in batch.rollouts]

    def expected(running: float) -> list[float]:
        values: list[float] = []
        for i, length in enumerate(lengths):
            row = verdicts.rollout_logits[i // 3]
            counted = row[batch.is_counted(CPU)[i // 3]]
            centred = row[i % 3] - counted.mean()
            value = 0.0 if batch.rollouts[i].is_truncated else centred / max(counted.std(), running)
            values += [float(value)] * length
        return values

    spreads = [
        row[counted].std()
        for row, counted in zip(verdicts.rollout_logits, batch.is_counted(CPU), strict=True)
    ]
    mean = float(sum(spreads) / len(spreads))
    assert_close(made.credit(batch, verdicts), expected(mean))
    assert_close(made.running_std, mean)
    # a batch of nothing but noise afterwards: the past deviation keeps it small
    verdicts.logits *= 1e-3
    credit = made.credit(batch, verdicts)
    running = 0.9 * mean + 0.1 * mean * 1e-3
    assert_close(made.running_std, running)
    assert_close(credit, expected(running))
    assert credit.abs().max() < 0.01


def test_groups_without_a_deviation_do_not_move_the_running_std() -> None:
    batch = judged_batch()
    made = discriminator("scalar")
    verdicts = made.judge(batch, learn=False)
    batch.rollouts = [replace(r, finish_reason="length") for r in batch.rollouts]
    made.running_std = 2.0
    assert not made.credit(batch, verdicts).any()
    assert made.running_std == 2.0


def test_health_by_hand() -> None:
    batch = judged_batch()
    made = discriminator("scalar")
    verdicts = made.judge(batch, learn=False)
    logits, experts = verdicts.rollout_logits, verdicts.expert_logits
    pairs = [(experts[i], logits[i, j]) for i in range(2) for j in range(3) if (i, j) != (0, 2)]
    health = verdicts.health
    correct = [1.0 if e > r else 0.5 if e == r else 0.0 for e, r in pairs]
    assert 0 < sum(correct) < len(correct)
    assert_close(health["discriminator/accuracy"], sum(correct) / 5)
    assert_close(health["discriminator/margin"], sum(e - r for e, r in pairs) / 5)
    assert_close(health["discriminator/demonstration_logit"], sum(r for _, r in pairs) / 5)
    assert_close(health["discriminator/preference_logit"], logits[2:].mean())
    spreads = [logits[0, :2].std(), *(logits[i].std() for i in (1, 2, 3))]
    assert_close(health["discriminator/group_std"], sum(spreads) / 4)
    lengths = torch.tensor([len(r.token_ids) for r in batch.rollouts], dtype=torch.float64)
    rows = []
    for row, own in zip(logits, lengths.view(-1, 3), strict=True):
        counted = slice(3 if rows else 2)  # the first group's last one is cut off
        rows.append((row[counted] - row[counted].mean(), own[counted] - own[counted].mean()))
    first, second = (torch.cat(column) for column in zip(*rows, strict=True))
    correlation = (first @ second) / (first.norm() * second.norm())
    assert_close(health["discriminator/length_correlation"], correlation)
    earned, is_known = batch.reward_table(CPU)
    correlation = group_correlation(logits, earned, is_known & batch.is_counted(CPU))
    assert_close(health["discriminator/reward_correlation"], correlation)


def test_a_masked_rollout_is_in_no_pair() -> None:
    """Another text in its place changes neither loss nor gradient nor health."""
    found = []
    for ids in ((16, 17, 18, 19, 20), (33,)):
        batch = mixed_batch()
        cut = rollout(batch.rollouts[2].prompt, *ids, cut=True)
        batch.rollouts = [*batch.rollouts[:2], cut, *batch.rollouts[3:]]
        made = discriminator("scalar", replay_rollouts=100)
        health = made.judge(batch, learn=True).health
        assert all(cut.token_ids != s.completion_ids for g in made.replay for s in g.others)
        found.append((health, gradients(made.model)))
    assert_close(list(found[0][0].values()), list(found[1][0].values()))
    assert_same_gradients(found[0][1], found[1][1])


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_all_truncated_teaches_no_pair(form: str) -> None:
    batch = judged_batch()
    batch.rollouts = [replace(r, finish_reason="length") for r in batch.rollouts]
    made = (
        discriminator(form, likelihood_weight=0.0) if form == "likelihood" else discriminator(form)
    )
    before = [p.detach().clone() for p in made.parameters]
    health = made.judge(batch, learn=True).health
    assert made.learn() == 0.0
    assert health["discriminator/loss"] == 0.0
    assert "discriminator/accuracy" not in health
    assert all(torch.equal(p, old) for p, old in zip(made.parameters, before, strict=True))


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_separable_data_is_told_apart(form: str) -> None:
    prompts = [prompt(5 + i, 6) for i in range(4)]
    batch = RolloutBatch(
        [rollout(p, 14 + i + j, 15, 4) for i, p in enumerate(prompts) for j in range(2)],
        group_size=2,
        experts=[demonstration(p, 30 + i, 31, 4) for i, p in enumerate(prompts)],
        num_pairs=4,
        mask_truncated=True,
    )
    batch.old_logprobs = no_gradient_logprobs(exact_policy(), batch.sequences, 100, 1.0)
    made = discriminator(form, learning_rate=0.01)
    losses = []
    for _ in range(12):
        losses.append(made.judge(batch, learn=True).health["discriminator/loss"])
        made.learn()
    fresh = replace(batch)  # another object: measured as if unseen
    health = made.judge(fresh, learn=False).health
    assert health["discriminator/accuracy"] == 1.0
    assert health["discriminator/margin"] > 1.0
    assert losses[-1] < losses[0] / 2


ROLES = [("full", "copy"), ("full", "lora"), ("lora", "copy"), ("lora", "lora")]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize(("tuning", "backbone"), ROLES)
@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_policy_and_discriminator_do_not_move_each_other(
    form: str, tuning: str, backbone: str, is_recomputed: bool
) -> None:
    """As in a step: the discriminator's gradient waits while the policy learns, then it learns too."""
    batch = judged_batch()
    config_ = config(
        model={"tuning": tuning},
        discriminator={"form": form, "backbone": backbone},
        training={"gradient_checkpointing": is_recomputed, "micro_batch_tokens": 25},
    )
    policy = prepare_policy(exact_policy(), config_)
    language_model, reference = other_roles(config_, policy)
    assert language_model is not None
    made = Discriminator(config_.discriminator, config_.optimizer, language_model, 25, 0)
    (packed,) = pack(batch.sequences, 1000)
    policy_says = policy.logprobs(packed).tolist()
    base_says = reference and reference.logprobs(packed).tolist()
    assert base_says in (None, policy_says)
    # a base that two share is in both; what learns is not
    of_policy, of_made = bits(policy), bits(made.model)
    assert not set(map(id, policy.trainable_parameters())) & set(map(id, made.parameters))

    verdicts = made.judge(batch, learn=True)
    assert not moved(of_policy, bits(policy)) | moved(of_made, bits(made.model))
    assert policy.logprobs(packed).tolist() == policy_says
    assert all(p.grad is None for p in policy.trainable_parameters())
    waiting = [None if p.grad is None else p.grad.clone() for p in made.parameters]
    assert any(g is not None and g.any() for g in waiting)

    weights = StepWeights(sft=0.3, grpo=1.0, adversarial=0.5, kl=0.0)
    tokens = weigh_tokens(batch, made.credit(batch, verdicts), weights, config_, CPU)
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.1)
    PolicyUpdate(config_, policy, optimizer)(
        batch.experts, batch, tokens, weights, is_first_pass=True
    )
    own = {
        n
        for n, p in policy.named_parameters()
        if any(p is q for q in policy.trainable_parameters())
    }
    assert moved(of_policy, bits(policy)) <= own
    assert moved(of_policy, bits(policy))
    learning = {n for n, p in made.model.named_parameters() if any(p is q for q in made.parameters)}
    assert not moved(of_made, bits(made.model)) & learning
    for parameter, gradient in zip(made.parameters, waiting, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(gradient, parameter.grad)  # type: ignore[arg-type]

    of_policy, of_made, policy_says = bits(policy), bits(made.model), policy.logprobs(packed)
    made.learn()
    assert not moved(of_policy, bits(policy)) & own
    assert moved(of_made, bits(made.model)) <= learning
    assert moved(of_made, bits(made.model))
    assert policy.logprobs(packed).tolist() == policy_says.tolist()
    assert base_says in (None, reference and reference.logprobs(packed).tolist())


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_one_backbone_serves_all_roles(form: str) -> None:
    """Of an adapter policy nothing is copied; of a full one a single copy is reference and backbone."""
    for tuning, copies in (("lora", 0), ("full", 1)):
        config_ = config(
            model={"tuning": tuning},
            discriminator={"form": form, "backbone": "lora"},
            objective={"kl_coef": 0.1},
        )
        policy = prepare_policy(exact_policy(), config_)
        backbone, reference = other_roles(config_, policy)
        assert backbone is not None
        assert reference is not None
        assert len({id(m.model) for m in (policy, backbone, reference)}) == 1 + copies
        assert backbone.model is reference.model
        assert reference.trainable_parameters() == []


def test_only_what_learns_is_saved_and_comes_back_bit_for_bit() -> None:
    for form, backbone in (("scalar", "lora"), ("likelihood", "lora"), ("scalar", "copy")):
        made, other = discriminator(form, backbone=backbone), discriminator(form, backbone=backbone)
        made.judge(judged_batch(), learn=True)
        made.learn()
        state = made.state_dict()
        assert len(state["model"]) == len(made.parameters)
        if backbone == "lora":
            assert all("lora_" in name or name == "head.weight" for name in state["model"])
        other.load_state_dict(state)
        assert not moved(bits(made.model), bits(other.model))
    with pytest.raises(InputError, match="has other weights than this run's"):
        discriminator("scalar", backbone="copy").load_state_dict(
            discriminator("scalar", backbone="lora").state_dict()
        )


def test_gradient_that_is_not_finite_stops_the_run() -> None:
    made = discriminator("scalar")
    made.judge(judged_batch(), learn=True)
    assert isinstance(made.model, ScalarModel)
    assert made.model.head.weight.grad is not None
    made.model.head.weight.grad[0, 0] = torch.nan
    before = made.model.head.weight.detach().clone()
    with pytest.raises(TrainingError, match="discriminator: gradient norm is nan; lower"):
        made.learn()
    assert torch.equal(made.model.head.weight, before)
