"""DPO's loss on chosen and rejected completions inside the step, against one written pair by pair."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    double,
    exact_policy,
    gradients,
    plain_logprobs,
    prompt,
)
from tiny import write_pairs
from tiny_runs import Tiny, rows
from trainers import DEMONSTRATIONS, PROMPTS, make_trainer, metrics_of

from uniapl.data.mixture import Mixture
from uniapl.models.packing import TokenSequence
from uniapl.training.pairs import accumulate_pairs
from uniapl.training.term_gradients import TermGradients
from uniapl.types import PreferencePair

BETA, WEIGHT = 0.3, 0.7


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def pair(number: int, chosen: tuple[int, ...], rejected: tuple[int, ...]) -> PreferencePair:
    return PreferencePair(prompt(5, number), "c", "r", chosen, rejected)


PAIRS = [
    pair(6, (14, 15, 4), (16, 4)),
    pair(7, (17, 4), (18, 19, 20, 21, 4)),
    pair(6, (22, 4), (14, 15, 4)),  # of a prompt that occurs twice
    pair(8, (4,), (23, 4)),
]


def plain_loss(policy: Any, reference: Any, pair_: PreferencePair) -> torch.Tensor:
    def gain(ids: tuple[int, ...]) -> torch.Tensor:
        sequence = TokenSequence(pair_.prompt.token_ids, ids)
        before = plain_logprobs(reference.model, sequence).detach().sum()
        return plain_logprobs(policy.model, sequence).sum() - before

    margin = BETA * (gain(pair_.chosen_ids) - gain(pair_.rejected_ids))
    return -torch.nn.functional.logsigmoid(margin)


@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_loss_and_gradient_are_those_of_pairs_written_one_by_one(micro_batch_tokens: int) -> None:
    policy, reference = exact_policy(), exact_policy(1)
    by_term = TermGradients(policy.trainable_parameters())
    found, _ = accumulate_pairs(
        policy,
        reference,
        PAIRS,
        weight=WEIGHT,
        beta=BETA,
        micro_batch_tokens=micro_batch_tokens,
        by_term=by_term,
    )
    actual = gradients(policy)
    losses = [plain_loss(policy, reference, p) for p in PAIRS]
    (WEIGHT * sum(losses) / len(PAIRS)).backward()  # type: ignore[union-attr]
    assert_same_gradients(actual, gradients(policy))
    assert_close(found["objective/pairs"], sum(loss.item() for loss in losses) / 4)
    right = sum(loss.item() < math.log(2) for loss in losses)
    assert 0 < right < 4
    assert found["objective/pairs_accuracy"] == right / 4
    pulls = [
        WEIGHT / 4 * BETA * (1 - math.exp(-loss.item())) * (len(p.chosen_ids) + len(p.rejected_ids))
        for loss, p in zip(losses, PAIRS, strict=True)
    ]
    assert_close(found["objective/pairs_token_weights"], sum(pulls))
    own = dict(zip(actual, by_term.sums["pairs"], strict=True))
    assert_same_gradients(own, actual)


def test_a_step_adds_the_term_to_its_loss_and_its_gradient() -> None:
    found = []
    for weight in (0.0, WEIGHT):
        mixture = Mixture(DEMONSTRATIONS, PROMPTS, PAIRS * 4, seed=0)
        trainer = make_trainer(
            "mix",
            mixture=mixture,
            data={"pairs": "p"} if weight else {},
            objective={"pair_weight": weight, "pair_beta": BETA},
            training={"gradients_every": 1},
        )
        (row,) = metrics_of(trainer, 1)
        found.append(row)
    without, with_pairs = found
    # in the first step the policy is the reference
    assert_close(with_pairs["objective/pairs"], math.log(2))
    assert with_pairs["objective/pair_weight"] == WEIGHT
    assert_close(with_pairs["objective/loss"], without["objective/loss"] + WEIGHT * math.log(2))
    assert with_pairs["objective/pairs_grad_norm"] > 0  # type: ignore[operator]
    assert with_pairs["objective/sft_pairs_cosine"] is not None
    assert "objective/pairs" not in without
    more = with_pairs["data/trained_tokens"] - without["data/trained_tokens"]  # type: ignore[operator]
    assert more > 16


def test_a_run_learns_what_was_preferred(tiny: Tiny, tmp_path: Path) -> None:
    """Even a method without rewards may: demonstrations and pairs."""
    torch.set_default_dtype(torch.float32)
    write_pairs(tmp_path / "pairs.jsonl", num=16)
    words = ["method=sft", f"data.pairs={tmp_path / 'pairs.jsonl'}", "objective.pair_weight=1"]
    run = tiny.train(tmp_path / "run", *words, "training.steps=12", "optimizer.learning_rate=3e-3")
    table = rows(run)
    assert table[0]["objective/pairs"] == pytest.approx(0.6931, abs=1e-3)
    assert table[-1]["objective/pairs"] < 0.6
    assert table[-1]["objective/pairs_accuracy"] == 1.0
