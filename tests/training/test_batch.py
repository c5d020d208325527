"""One batch of rollouts for several steps: each step has a part of its own."""

from typing import Any

import pytest
import torch
from exact import assert_close, double, plain_logprobs, sequences_of
from one_step import Fixed, some_judgement
from trainers import DEMONSTRATIONS, length_reward, make_trainer, metrics_of

from uniapl.discriminators import Judgement
from uniapl.models.packing import sequence_of
from uniapl.training.step import StepResult
from uniapl.types import Demonstration, MixedBatch, Rollout, RolloutBatch

GROUP = 3
"""`group_size` of the trainers here."""


@pytest.fixture(autouse=True)
def _double() -> Any:
    with double():
        yield


def rollouts_of(result: StepResult) -> RolloutBatch:
    assert result.rollouts is not None
    return result.rollouts


@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_every_rollout_is_learned_from_exactly_once(form: str) -> None:
    """k = 3: prompts_per_step counts a step, and a batch is sampled three times as large."""
    trainer = make_trainer(
        "uniapl", rollout={"updates_per_rollout": 3}, discriminator={"form": form}
    )
    generator: Any = trainer.players.generator
    learned: list[Rollout] = []
    start = trainer.players.policy
    for step in range(6):
        is_new = trainer.is_between_batches
        assert is_new == (step % 3 == 0)
        if is_new:
            start = trainer.players.policy.trainable_copy()
        result = trainer.train_step()
        batch = rollouts_of(result)
        learned += batch.rollouts
        assert batch.num_groups == 4
        assert [e is not None for e in batch.experts] == [True, True, False, False]
        for group, expert in enumerate(batch.experts):
            siblings = batch.rollouts[group * GROUP : (group + 1) * GROUP]
            asked = expert.prompt if expert else siblings[0].prompt
            assert all(r.prompt == asked for r in siblings)
        totals = [reward.total for reward in batch.rewards]
        assert totals == length_reward([r.token_ids for r in batch.rollouts])
        # log π_old: of the weights that sampled, though the policy has moved since
        old = [plain_logprobs(start.model, s, 0.7).detach() for s in sequences_of(batch)]
        assert_close(result.old_logprobs_T, torch.cat(old))
        ratio = result.metrics["policy/ratio_mean"]
        assert (ratio == pytest.approx(1.0, abs=1e-12)) == is_new
    assert len(learned) == 6 * 4 * GROUP
    assert {id(r) for r in learned} == {id(r) for r in generator.sampled}
    assert len(generator.sampled) == len(learned)
    prompts = [[r.prompt.id for r in learned[i : i + 4 * GROUP]] for i in range(0, 72, 4 * GROUP)]
    assert len({name for part in prompts[:3] for name in part}) == 12  # no part repeats another's


def test_a_ranking_form_with_a_target_is_measured_on_rollouts_of_its_own() -> None:
    """Those of held-out prompts are sampled in the same call, and learned from by nobody."""
    trainer = make_trainer(
        "uniapl",
        rollout={"updates_per_rollout": 2},
        discriminator={"form": "scalar"},
        constraint={"target": 0.6},
    )
    generator: Any = trainer.players.generator
    results = [trainer.train_step() for _ in range(2)]
    learned = {id(r) for result in results for r in rollouts_of(result).rollouts}
    others = [r for r in generator.sampled if id(r) not in learned]
    assert len(others) == 2 * 3 * GROUP
    held_out = {d.prompt.id for d in trainer.held_out._items}
    assert {r.prompt.id for r in others} <= held_out
    assert all("discriminator/held_out_accuracy" in result.metrics for result in results)
    tokens = sum(len(r.token_ids) for r in generator.sampled)
    assert results[-1].metrics["data/sampled_tokens"] == tokens


class Watched(Fixed):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.batches: list[RolloutBatch] = []
        self.demonstrations: list[tuple[Demonstration, ...]] = []

    def judge(self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: Any) -> Judgement:
        self.batches.append(batch)
        self.demonstrations.append(data.demonstrations)
        for expert, own in zip(batch.experts, data.demonstrations, strict=False):
            assert expert is None or expert == own
        return some_judgement(batch)


def test_each_step_has_demonstrations_of_its_own() -> None:
    watched = Watched()
    trainer = make_trainer("uniapl", judge=watched, rollout={"updates_per_rollout": 3})
    results = [trainer.train_step() for _ in range(3)]
    assert [batch is rollouts_of(r) for batch, r in zip(watched.batches, results, strict=True)]
    seen = [d for part in watched.demonstrations for d in part]
    assert len(seen) == 12
    assert {id(d) for d in seen} == {id(d) for d in DEMONSTRATIONS}
    policy = make_trainer("uniapl").players.policy
    first = [plain_logprobs(policy.model, sequence_of(d)) for d in seen[:4]]
    assert_close(results[0].metrics["objective/sft"], -torch.cat(first).mean())


def test_held_out_log_ratios_are_those_of_the_policy_that_sampled() -> None:
    """With several updates per batch they are measured before the first; later the policy has moved on."""
    settings = {"discriminator": {"warmup_steps": 0}}
    one = make_trainer("uniapl", **settings)
    several = make_trainer("uniapl", **settings, rollout={"updates_per_rollout": 2})
    name = "discriminator/held_out_log_ratio"
    found = [trainer.train_step().metrics for trainer in (one, several, several, several)]
    assert [name in row for row in found] == [True, True, False, True]
    assert ["discriminator/margin" in row for row in found] == [True, True, False, True]


def test_a_discriminator_from_elsewhere_works_in_the_loop() -> None:
    """`one_step.Fixed` is not in the package: constant credit, nothing to learn, frozen."""
    credit = 0.5

    class Constant(Fixed):
        def __init__(self) -> None:
            pass

        def judge(self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: Any) -> Judgement:
            return Judgement(
                is_credited_T=torch.ones(batch.num_tokens, dtype=torch.bool),
                credit_T=torch.full((batch.num_tokens,), credit),
                logits_GxN=torch.zeros(batch.num_groups, batch.group_size),
            )

    trainer = make_trainer("uniapl", judge=Constant())
    rows = metrics_of(trainer, 3)
    for row in rows:
        assert_close(row["objective/adversarial"], -credit)
        assert row["objective/adversarial_weight"] == 0.1
        assert_close(row["objective/adversarial_token_weights"], 0.1 * credit)
        assert row["discriminator/group_std"] == 0.0
    silent = metrics_of(make_trainer("mix", data={"prompts_per_step": 2}), 1)
    assert "discriminator/group_std" not in silent[0]
    again = make_trainer("uniapl", judge=Constant())
    again.load_state_dict(trainer.state_dict())
    assert again.step == 3


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_a_resumed_trainer_goes_on_bit_for_bit(form: str, updates: int) -> None:
    settings: dict[str, Any] = {
        "rollout": {"updates_per_rollout": updates},
        "discriminator": {"form": form, "warmup_steps": 1},
        "constraint": {"target": 0.6, "rate": 0.1},
    }
    straight = make_trainer("uniapl", **settings)
    expected = metrics_of(straight, 6)
    first = make_trainer("uniapl", **settings)
    metrics_of(first, 3)
    state = first.state_dict()
    second = make_trainer("uniapl", **settings)
    second.players.policy.load_state_dict(first.players.policy.state_dict())
    second.load_state_dict(state)
    assert metrics_of(second, 3) == expected[3:]
    weights = straight.players.policy.state_dict()
    assert all(
        torch.equal(value, weights[name])
        for name, value in second.players.policy.state_dict().items()
    )
