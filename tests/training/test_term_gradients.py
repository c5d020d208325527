"""The gradient of each term: parts of the step's own, measured without moving anything."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    double,
    exact_policy,
    mixed_batch,
    rewards,
    sampled_elsewhere,
)
from one_step import WEIGHTS, Step, recipe, reference
from trainers import make_trainer, metrics_of

from uniapl.config.recipe import Recipe
from uniapl.runs.metrics import DEFINITIONS
from uniapl.training import step as step_module
from uniapl.training.term_gradients import PAIRS, TERMS, TermGradients

PACKED = TERMS[:4]
"""The terms that share one forward: all but that of chosen and rejected completions."""
NAMES = {
    name
    for name in DEFINITIONS
    if name.startswith("objective/")
    and name.endswith(("_cosine", "_grad_norm"))
    and "pairs" not in name
}


@pytest.fixture
def _double() -> Iterator[None]:
    with double():
        yield


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[TermGradients]:
    """The term gradients of every measured step."""
    found: list[TermGradients] = []

    class Kept(TermGradients):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(step_module, "TermGradients", Kept)
    return found


def measuring(micro_batch_tokens: int = 30, every: int = 1, **rollout: Any) -> Recipe:
    """One update per batch, measured."""
    return recipe(
        micro_batch_tokens,
        rollout={"updates_per_rollout": 1, **rollout},
        training={"gradients_every": every},
    )


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("micro_batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("importance_cap", [None, 1.5])
def test_the_terms_sum_to_the_step_for_every_parameter(
    kept: list[TermGradients], micro_batch_tokens: int, importance_cap: float | None
) -> None:
    step = Step(mixed_batch(), recipe_=measuring(micro_batch_tokens, importance_cap=importance_cap))
    step()
    (terms,) = kept
    assert list(PACKED) == [t for t in TERMS if t in terms.sums]
    names = [name for name, _ in step.policy.named_parameters()]
    sums = {name: sum(parts) for name, *parts in zip(names, *terms.sums.values(), strict=True)}
    assert_same_gradients(sums, step.gradients)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
@pytest.mark.parametrize("importance_cap", [None, 1.5])
def test_norms_and_cosines_are_those_of_separately_written_terms(
    micro_batch_tokens: int, importance_cap: float | None
) -> None:
    step = Step(
        sampled_elsewhere(mixed_batch()),
        recipe_=measuring(micro_batch_tokens, importance_cap=importance_cap),
    )
    metrics = step()
    _, parts, _ = reference(step, exact_policy())
    expected = {t: torch.cat([g.flatten() for g in parts[t].values()]) for t in PACKED}
    for term, gradient in expected.items():
        assert_close(metrics[f"objective/{term}_grad_norm"], gradient.norm())
    for one, other in combinations(PACKED, 2):
        cosine = torch.nn.functional.cosine_similarity(expected[one], expected[other], dim=0)
        assert_close(metrics[f"objective/{one}_{other}_cosine"], cosine)
        assert 0.001 < abs(cosine) < 0.999  # else a wrong pair could pass
    assert {name for name in metrics if name in NAMES} == NAMES


@pytest.mark.usefixtures("_double")
def test_measuring_changes_nothing_by_one_bit() -> None:
    results = []
    for every in (0, 1):
        step = Step(mixed_batch(), moves=True, recipe_=measuring(every=every))
        torch.manual_seed(0)
        metrics = step()
        kept = {name: metrics[name] for name in metrics.keys() - NAMES}
        results.append((kept, step.policy.state_dict(), torch.get_rng_state()))
    (expected, weights, state), (actual, measured, state_after) = results
    assert actual == expected
    assert all(torch.equal(value, measured[name]) for name, value in weights.items())
    assert torch.equal(state, state_after)


@pytest.mark.usefixtures("_double")
def test_a_term_without_weight_is_absent() -> None:
    silent = replace(WEIGHTS, adversarial=0.0, kl=0.0)
    metrics = Step(mixed_batch(), weights=silent, recipe_=measuring())()
    assert {name for name in metrics if name in NAMES} == {
        "objective/sft_grad_norm",
        "objective/grpo_grad_norm",
        "objective/sft_grpo_cosine",
    }


@pytest.mark.usefixtures("_double")
def test_a_zero_gradient_has_a_norm_but_no_angle() -> None:
    batch = replace(mixed_batch(), rewards=rewards(*[0.5] * 12))
    metrics = Step(batch, weights=replace(WEIGHTS, kl=0.0), recipe_=measuring())()
    assert metrics["objective/grpo_grad_norm"] == 0.0
    assert metrics.keys() & NAMES == {
        *(f"objective/{term}_grad_norm" for term in ("sft", "grpo", "adversarial")),
        "objective/sft_adversarial_cosine",
    }


Rows = list[dict[str, float | None]]


def measured_steps(rows: Rows) -> list[int]:
    return [step for step, row in enumerate(rows, 1) if NAMES & row.keys()]


@pytest.mark.usefixtures("_double")
def test_a_trainer_measures_when_due_and_learns_the_same() -> None:
    found: list[tuple[Rows, dict[str, torch.Tensor]]] = []
    for every in (0, 2):
        trainer = make_trainer("uniapl", training={"gradients_every": every})
        found.append((metrics_of(trainer, 5), trainer.players.policy.state_dict()))
    (plain, weights), (rows, measured) = found
    assert measured_steps(plain) == []
    assert measured_steps(rows) == [1, 3, 5]
    assert [{n: v for n, v in row.items() if n not in NAMES} for row in rows] == plain
    assert all(torch.equal(value, measured[name]) for name, value in weights.items())


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("sft", {"sft"}),
        ("grpo", {"grpo", "kl"}),
        ("mix", {"sft", "grpo", "kl"}),
        ("a-sft", {"sft", "adversarial", "kl"}),
    ],
)
def test_a_method_has_the_gradients_of_its_terms(method: str, terms: set[str]) -> None:
    # p_φ learns faster than the policy, for at equal rates they would be one where `sft` alone moves the policy
    trainer = make_trainer(
        method,
        objective={"kl_coef": 0.1},
        discriminator={"learning_rate": 0.03},
        training={"gradients_every": 1},
    )
    # at first the policy is the reference and p_φ: what is zero has no angle
    last = metrics_of(trainer, 3)[-1]
    assert {t for t in TERMS if last.get(f"objective/{t}_grad_norm")} == terms
    angles = {(a, b) for a, b in PAIRS if last.get(f"objective/{a}_{b}_cosine") is not None}
    assert angles == {(a, b) for a, b in PAIRS if a in terms and b in terms}


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [1, 3, 5, 7]), (3, [1, 5, 7]), (4, [1, 5])],
)
def test_only_first_passes_are_measured(every: int, steps: list[int]) -> None:
    """With two steps per rollout batch: the first pass at or after each multiple."""
    trainer = make_trainer(
        "uniapl", rollout={"updates_per_rollout": 2}, training={"gradients_every": every}
    )
    assert measured_steps(metrics_of(trainer, 8)) == steps
