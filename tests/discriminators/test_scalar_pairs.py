"""Chosen and rejected completions of the user, in the `scalar` discriminator's loss and in a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    drawn,
    gradients,
    mixed_batch,
    plain_scalar_logit,
    policy_logprobs,
    prompt,
    scalar,
)
from tiny import write_pairs
from tiny_runs import Tiny, rows
from torch import Tensor
from torch.nn import functional

from uniapl.discriminators import Judgement
from uniapl.discriminators.scalar import Scalar
from uniapl.errors import InputError
from uniapl.models.packing import TokenSequence
from uniapl.types import PreferencePair

# The second and fourth share a prompt, and it is one of the batch's too; lengths are uneven.
PAIRS = tuple(
    PreferencePair(prompt(*ids), "c", "r", chosen, rejected)
    for ids, chosen, rejected in (
        ((21, 22), (23, 24, 4), (25, 4)),
        ((8,), (26, 4), (27, 28, 29, 30, 4)),
        ((31, 32, 33, 34), (4,), (35, 36, 4)),
        ((8,), (37, 38, 4), (26, 4)),
        ((5, 39), (14, 4), (15, 16, 17, 4)),
    )
)


def judge(made: Scalar, pairs: tuple[PreferencePair, ...]) -> Judgement:
    return made.judge(mixed_batch(), replace(drawn(), pairs=pairs), policy_logprobs)


def plain_pairs_loss(made: Scalar) -> tuple[Tensor, list[bool]]:
    """Each completion in a forward of its own, each pair by the equation; their mean, and who is right."""
    losses, right = [], []
    for pair in PAIRS:
        chosen, rejected = (
            plain_scalar_logit(made.model, TokenSequence(pair.prompt.token_ids, ids))
            for ids in (pair.chosen_ids, pair.rejected_ids)
        )
        losses.append(functional.softplus(rejected - chosen))
        right.append(bool(chosen > rejected))
    return torch.stack(losses).mean(), right


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 10_000])
def test_pairs_add_the_mean_of_their_own_losses(micro_batch_tokens: int) -> None:
    made = scalar(micro_batch_tokens)
    without = judge(made, ())
    expected = gradients(made.model)
    judged = judge(made, PAIRS)
    actual = gradients(made.model)
    loss, right = plain_pairs_loss(made)
    loss.backward()
    own = gradients(made.model)
    assert_close(
        judged.health["discriminator/loss"], without.health["discriminator/loss"] + loss.item()
    )
    assert 0 < sum(right) < len(right)
    assert_close(judged.health["discriminator/pairs_accuracy"], sum(right) / len(right))
    assert_same_gradients(actual, {name: g + own[name] for name, g in expected.items()})


@pytest.mark.usefixtures("in_double")
def test_pairs_count_in_nothing_but_the_loss() -> None:
    without, with_pairs = judge(scalar(), ()), judge(scalar(), PAIRS)
    assert with_pairs.health.keys() - without.health.keys() == {"discriminator/pairs_accuracy"}
    for name in without.health.keys() - {"discriminator/loss"}:
        assert with_pairs.health[name] == without.health[name]
    assert torch.equal(with_pairs.logits_GxN, without.logits_GxN)  # type: ignore[arg-type]
    assert torch.equal(with_pairs.credit_T, without.credit_T)  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_double")
def test_the_first_judgement_of_a_pair_is_a_tie() -> None:
    made = scalar()
    torch.nn.init.zeros_(made.model.head.weight)
    assert judge(made, PAIRS).health["discriminator/pairs_accuracy"] == 0.5


def words(file: Path) -> tuple[str, ...]:
    return (f"data.pairs={file}", "discriminator.form=scalar")


def test_a_run_learns_from_pairs(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.train(
        tmp_path / "run",
        *words(write_pairs(tmp_path / "pairs.jsonl")),
        "training.steps=12",
        "discriminator.learning_rate=1e-2",
    )
    found = [row["discriminator/pairs_accuracy"] for row in rows(folder)]
    assert found[0] == 0.5
    assert found[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "word", "message"),
    [
        ({"chosen": "d, d"}, "seed=0", "pairs.jsonl:1: the two completions are identical"),
        (
            {"chosen": "a" * 600},
            "seed=0",
            "prompt 1 has .* does not fit the model's context of 512",
        ),
        (
            {"prompt": "a" * 30},
            "data.max_prompt_tokens=20",
            "the prompt has 33 tokens, more than max_prompt_tokens 20",
        ),
    ],
)
def test_pairs_that_do_not_fit_stop_before_the_first_step(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], word: str, message: str
) -> None:
    file = write_pairs(tmp_path / "pairs.jsonl", **changes)
    with pytest.raises(InputError, match=message):
        tiny.train(tmp_path / "run", *words(file), word)
    assert not (tmp_path / "run").exists()
