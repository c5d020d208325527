"""When λ acts, and what moves it."""

import math
from typing import Any

import pytest
import torch
from exact import demonstration, double
from trainers import DEMONSTRATIONS, HELD_OUT, make_recipe, make_trainer, metrics_of

from uniapl.discriminators.likelihood import Likelihood
from uniapl.training.multiplier import Multiplier
from uniapl.types import MixedBatch


@pytest.fixture(autouse=True)
def _double() -> Any:
    with double():
        yield


def multiplier(form: str = "likelihood", **settings: Any) -> Multiplier:
    constraint = {"target": 0.6, "rate": 0.5, **settings.pop("constraint", {})}
    discriminator = {"form": form, "warmup_steps": 0, **settings.pop("discriminator", {})}
    recipe = make_recipe("uniapl", discriminator=discriminator, constraint=constraint, **settings)
    return Multiplier(recipe)


def ratios(log_ratio: float, margin: float) -> dict[str, float]:
    return {"discriminator/log_ratio": log_ratio, "discriminator/margin": margin}


def test_lambda_follows_the_distance_in_nats() -> None:
    """-mean k = .9 nats, farther than the target of .6: λ grows; at the target it stays."""
    made = multiplier()
    found = made.observe(1, ratios(log_ratio=-0.9, margin=1.0))
    assert found["constraint/distance"] == pytest.approx(0.9)
    assert found["constraint/weight"] == pytest.approx(0.1 * math.exp(0.5 * 0.3))
    assert found["constraint/state"] == 0
    # the average falls: .8 · .9 + .2 · 0 = .72
    assert made.observe(2, ratios(0.0, 1.0))["constraint/distance"] == pytest.approx(0.72)
    assert made.recipe.weights_at(3, made.strength).adversarial == made.strength


def test_the_bounds_have_names() -> None:
    made = multiplier(constraint={"rate": 5.0})
    assert made.observe(1, ratios(-5.0, 1.0))["constraint/state"] == 1
    assert made.strength == 1.0
    slack = multiplier(constraint={"target": 9.0, "rate": 5.0})
    assert slack.observe(1, ratios(-0.1, 1.0))["constraint/state"] == -1
    assert slack.strength == 0.01


def test_a_ranking_form_is_measured_by_its_accuracy() -> None:
    made = multiplier("scalar")
    found = made.observe(1, {"discriminator/held_out_accuracy": 0.9})
    assert found["constraint/distance"] == 0.9
    assert found["constraint/weight"] == pytest.approx(0.1 * math.exp(0.5 * 0.3))
    assert not made.is_closed
    wrong = multiplier("scalar")
    found = wrong.observe(1, {"discriminator/held_out_accuracy": 0.4})
    assert found["constraint/weight"] == 0.1
    assert found["constraint/state"] is None


@pytest.mark.parametrize("warmup_steps", [0, 1, 2])
def test_nothing_is_measured_before_the_discriminator_has_learned(warmup_steps: int) -> None:
    """Without a warm-up the first step still measures a copy of the policy: rounding, which closes nothing."""
    made = multiplier(discriminator={"warmup_steps": warmup_steps})
    for step in range(max(warmup_steps, 1)):
        found = made.observe(step, ratios(-0.9, -1.0))
        assert found["constraint/margin"] is None
        assert not made.is_closed
        assert found["constraint/distance"] is None
        assert found["constraint/state"] is None
        assert found["constraint/weight"] == 0.1
    found = made.observe(max(warmup_steps, 1), ratios(-0.9, 1.0))
    assert found["constraint/distance"] == pytest.approx(0.9)


def test_without_a_target_the_margin_alone_is_watched() -> None:
    made = multiplier(constraint={"target": None})
    assert made.observe(1, ratios(-0.9, 0.5)) == {"constraint/margin": 0.5}
    assert made.strength is None
    assert not made.is_closed
    # .8 · .5 + .2 · -3 = -.2
    assert made.observe(2, ratios(-0.9, -3.0))["constraint/margin"] == pytest.approx(-0.2)
    assert made.is_closed


def test_it_goes_on_as_it_stood() -> None:
    made = multiplier()
    made.observe(1, ratios(-0.9, 0.5))
    other = multiplier()
    other.load_state_dict(made.state_dict())
    assert made.observe(2, ratios(-0.3, -0.1)) == other.observe(2, ratios(-0.3, -0.1))


@pytest.mark.parametrize("target", [None, 0.05])
def test_a_discriminator_that_prefers_rollouts_does_not_act(target: float | None) -> None:
    """p_φ has learned what the policy samples here: its margin is below 0, and λ is 0 from then on."""
    trainer = make_trainer(
        "uniapl",
        constraint={"target": target},
        objective={"sft_weight": 0.0, "grpo_weight": 0.0},
        discriminator={"learning_rate": 1e-9},
    )
    made = trainer.players.discriminator
    assert isinstance(made, Likelihood)
    texts = trainer.players.generator.sample([d.prompt for d in DEMONSTRATIONS], 1)
    likes = MixedBatch(tuple(demonstration(r.prompt, *r.token_ids) for r in texts), ())
    some = make_trainer("uniapl").train_step().rollouts
    assert some is not None
    for _ in range(20):
        made.judge(some, likes, lambda _: torch.zeros(0))
        made.learn(3e-3)
    rows = metrics_of(trainer, 2)
    before = {n: p.clone() for n, p in trainer.players.policy.state_dict().items()}
    rows += metrics_of(trainer, 4)
    assert len(HELD_OUT) > 0
    assert all(row["discriminator/margin"] < 0 for row in rows)  # type: ignore[operator]
    assert [row["objective/adversarial_weight"] for row in rows[2:]] == [0.0] * 4
    for row in rows:  # never "slack" nor "active": it is not known
        assert row.get("constraint/state") is None
        assert row.get("constraint/weight") in (None, 0.1)
    after = trainer.players.policy.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_discriminator_that_is_right_acts() -> None:
    trainer = make_trainer("uniapl", constraint={"target": 0.05}, discriminator={"warmup_steps": 1})
    rows = metrics_of(trainer, 6)
    assert rows[0]["objective/adversarial_weight"] == 0.0
    assert all(row["discriminator/margin"] > 0 for row in rows[1:])  # type: ignore[operator]
    assert rows[-1]["constraint/state"] in (0, 1)
    assert rows[-1]["objective/adversarial_weight"] > 0.1  # type: ignore[operator]
