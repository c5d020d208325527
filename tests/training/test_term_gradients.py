"""The gradient of each term: parts of the step's own, measured without moving anything."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    RecordingOptimizer,
    assert_close,
    assert_same_gradients,
    config,
    demonstration,
    double,
    exact_policy,
    gradients,
    mixed_batch,
    plain_logprobs,
    prompt,
    rewards,
)
from tiny_runs import Tiny, assert_same_run, rows
from torch import Tensor
from uniapl.training.rollout_batch import RolloutBatch, sequence_of

from uniapl.objective.unified import token_weights
from uniapl.runs.metrics import DEFINITIONS
from uniapl.training import update as update_module
from uniapl.training.term_gradients import PAIRS, TERMS, TermGradients
from uniapl.training.update import PolicyUpdate, StepWeights, no_gradient_logprobs, weigh_tokens

ALL = StepWeights(sft=0.3, grpo=1.0, adversarial=0.4, kl=0.05)
EXPERTS = [demonstration(prompt(5, 6, 7), 35, 36, 4), demonstration(prompt(20), 21, 22, 23, 4)]
NAMES = {name for name in DEFINITIONS if name.endswith(("_cosine", "_grad_norm"))} - {
    "optimizer/grad_norm",
    "optimizer/discriminator_grad_norm",
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

    monkeypatch.setattr(update_module, "TermGradients", Kept)
    return found


class Step:
    """One update of a float64 policy on all four terms."""

    def __init__(
        self,
        weights: StepWeights = ALL,
        batch: RolloutBatch | None = None,
        micro_batch_tokens: int = 30,
        learning_rate: float = 0.0,
        **rollout: Any,
    ) -> None:
        self.weights, self.batch = weights, batch or mixed_batch()
        settings = config(
            rollout={"temperature": 0.7, **rollout},
            training={"micro_batch_tokens": micro_batch_tokens},
        )
        self.policy = exact_policy()
        self.optimizer = RecordingOptimizer(self.policy, learning_rate)
        self.update = PolicyUpdate(settings, self.policy, self.optimizer)
        generator = torch.Generator().manual_seed(3)
        self.credit = torch.randn(self.batch.num_rollout_tokens, generator=generator)
        cpu = torch.device("cpu")
        self.tokens = weigh_tokens(self.batch, self.credit, weights, settings, cpu)
        if weights.kl:
            self.batch.ref_logprobs = no_gradient_logprobs(
                exact_policy(seed=1), self.batch.rollout_sequences, 100, 0.7
            )

    def __call__(self, *, measure_gradients: bool = True) -> dict[str, float | None]:
        return self.update(
            EXPERTS,
            self.batch,
            self.tokens,
            self.weights,
            is_first_pass=True,
            measure_gradients=measure_gradients,
        )


def separate_gradients(step: Step, importance_cap: float | None) -> dict[str, Tensor]:
    """The gradient of each term, from plain forwards of one sequence at a time."""
    policy, batch, tokens = exact_policy(), step.batch, step.tokens
    assert batch.ref_logprobs is not None
    now = torch.cat([plain_logprobs(policy.model, s, 0.7) for s in batch.rollout_sequences])
    expert = torch.cat([plain_logprobs(policy.model, sequence_of(d)) for d in EXPERTS])
    sampled = torch.tensor([x for r in batch.rollouts for x in r.sampling_logprobs])
    weighted = now  # at ρ = 1 the gradient of the ratio is that of the log-prob
    if importance_cap:
        weighted = now * (now.detach() - sampled).exp().clamp(max=importance_cap)
    part = (tokens.reward_advantages, tokens.is_rewarded, step.credit, tokens.is_counted)
    log_ratio = batch.ref_logprobs - now
    k3 = (log_ratio.exp() - 1 - log_ratio)[tokens.is_counted]
    losses = {
        "sft": -step.weights.sft * expert.mean(),
        "grpo": -(weighted * token_weights(*part, step.weights.grpo, 0.0)).sum(),
        "adversarial": -(weighted * token_weights(*part, 0.0, step.weights.adversarial)).sum(),
        "kl": step.weights.kl * k3.mean(),
    }
    found = {}
    for name, loss in losses.items():
        loss.backward(retain_graph=True)
        found[name] = torch.cat([g.flatten() for g in gradients(policy).values()])
    return found


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("micro_batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("importance_cap", [None, 1.5])
def test_the_terms_sum_to_the_step_for_every_parameter(
    kept: list[TermGradients], micro_batch_tokens: int, importance_cap: float | None
) -> None:
    step = Step(micro_batch_tokens=micro_batch_tokens, importance_cap=importance_cap)
    step()
    (terms,) = kept
    assert list(TERMS) == [t for t in TERMS if t in terms.sums]
    names = [name for name, _ in step.policy.named_parameters()]
    sums = {name: sum(parts) for name, *parts in zip(names, *terms.sums.values(), strict=True)}
    assert_same_gradients(sums, step.optimizer.last)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
@pytest.mark.parametrize("importance_cap", [None, 1.5])
def test_norms_and_cosines_are_those_of_separately_written_terms(
    micro_batch_tokens: int, importance_cap: float | None
) -> None:
    batch = mixed_batch()
    batch.rollouts = [  # sampled as another engine might have, below and above the cap
        replace(r, sampling_logprobs=tuple(-1.0 - i % 5 for i, _ in enumerate(r.token_ids)))
        for r in batch.rollouts
    ]
    step = Step(batch=batch, micro_batch_tokens=micro_batch_tokens, importance_cap=importance_cap)
    metrics = step()
    expected = separate_gradients(step, importance_cap)
    for term, gradient in expected.items():
        assert_close(metrics[f"objective/{term}_grad_norm"], gradient.norm())
    for one, other in combinations(TERMS, 2):
        cosine = torch.nn.functional.cosine_similarity(expected[one], expected[other], dim=0)
        assert_close(metrics[f"objective/{one}_{other}_cosine"], cosine)
        assert 0.001 < abs(cosine) < 0.999  # else a wrong pair could pass
    assert {name for name in metrics if name in NAMES} == NAMES


@pytest.mark.usefixtures("_double")
def test_measuring_changes_nothing_by_one_bit() -> None:
    results = []
    for measure_gradients in (False, True):
        step = Step(learning_rate=0.1)
        torch.manual_seed(0)
        metrics = step(measure_gradients=measure_gradients)
        kept = {name: metrics[name] for name in metrics.keys() - NAMES}
        results.append((kept, step.policy.state_dict(), torch.get_rng_state()))
    (expected, weights, state), (actual, measured, state_after) = results
    assert actual == expected
    assert all(torch.equal(value, measured[name]) for name, value in weights.items())
    assert torch.equal(state, state_after)


@pytest.mark.usefixtures("_double")
def test_a_term_without_weight_is_absent() -> None:
    metrics = Step(replace(ALL, adversarial=0.0, kl=0.0))()
    assert {name for name in metrics if name in NAMES} == {
        "objective/sft_grad_norm",
        "objective/grpo_grad_norm",
        "objective/sft_grpo_cosine",
    }


@pytest.mark.usefixtures("_double")
def test_a_zero_gradient_has_a_norm_but_no_angle() -> None:
    batch = mixed_batch()
    batch.rewards = rewards(*[0.5] * 12)
    metrics = Step(replace(ALL, kl=0.0), batch)()
    assert metrics["objective/grpo_grad_norm"] == 0.0
    assert metrics.keys() & NAMES == {
        *(f"objective/{term}_grad_norm" for term in ("sft", "grpo", "adversarial")),
        "objective/sft_adversarial_cosine",
    }


def measured_steps(run: Path) -> list[int]:
    return [row["step"] for row in rows(run) if row["objective/grpo_grad_norm"] is not None]


def test_a_run_measures_when_due_and_learns_the_same(tiny: Tiny, tmp_path: Path) -> None:
    tiny.train(tmp_path / "with", "training.gradients_every=2", "training.steps=5")
    tiny.train(tmp_path / "without", "training.steps=5")
    assert measured_steps(tmp_path / "with") == [1, 3, 5]
    assert measured_steps(tmp_path / "without") == []
    for row in rows(tmp_path / "with"):
        if row["objective/sft_grpo_cosine"] is not None:
            assert -1 <= row["objective/sft_grpo_cosine"] <= 1
            norms = [row[f"objective/{t}_grad_norm"] or 0.0 for t in TERMS]
            assert row["optimizer/grad_norm"] <= math.fsum(norms) * (1 + 1e-5)
    for run in ("with", "without"):
        kept = [{k: v for k, v in row.items() if k not in NAMES} for row in rows(tmp_path / run)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        (tmp_path / run / "metrics.jsonl").write_text(text)
        (tmp_path / run / "policy" / "README.md").unlink()  # it states the config
    assert_same_run(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("sft", {"sft"}),
        ("grpo", {"grpo", "kl"}),
        ("mix", {"sft", "grpo", "kl"}),
        ("a-sft", {"sft", "adversarial", "kl"}),
    ],
)
def test_a_method_has_the_gradients_of_its_terms(
    tiny: Tiny, tmp_path: Path, method: str, terms: set[str]
) -> None:
    words = [f"method={method}", "training.gradients_every=1", "evaluation.prompts=null"]
    if method != "sft":
        words.append("objective.kl_coef=0.1")
    last = rows(tiny.train(tmp_path / "run", *words))[-1]
    assert {t for t in TERMS if last[f"objective/{t}_grad_norm"] is not None} == terms
    angles = {(a, b) for a, b in PAIRS if last[f"objective/{a}_{b}_cosine"] is not None}
    assert angles == {(a, b) for a, b in PAIRS if a in terms and b in terms}


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [1, 3, 5, 7]), (2, [1, 3, 5, 7]), (3, [1, 5, 7]), (4, [1, 5]), (5, [1, 7])],
)
def test_only_first_passes_are_measured(
    tiny: Tiny, tmp_path: Path, every: int, steps: list[int]
) -> None:
    """With two steps per rollout batch: the first pass at or after each multiple."""
    words = ["training.steps=8", "rollout.updates_per_rollout=2", "evaluation.prompts=null"]
    run = tiny.train(tmp_path / "run", *words, f"training.gradients_every={every}")
    assert measured_steps(run) == steps
