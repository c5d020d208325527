"""Chosen and rejected completions of the user, in the `scalar` discriminator's loss and in a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    discriminator,
    double,
    gradients,
    mixed_batch,
    plain_logits,
    plain_loss,
    plain_pair_loss,
    plain_scalar_logit,
    prompt,
)
from tiny import write_pairs
from tiny_runs import Tiny, rows
from torch import Tensor
from uniapl.training.discriminator import Discriminator
from uniapl.training.rollout_batch import RankedGroup, ranked

from uniapl.models.scalar_model import ScalarModel
from uniapl.types import InputError, PreferencePair

# The second and fourth share a prompt, and it is one of the batch's too; lengths are uneven.
PAIRS = [
    ranked(PreferencePair(prompt(*ids), "c", "r", chosen, rejected))
    for ids, chosen, rejected in (
        ((21, 22), (23, 24, 4), (25, 4)),
        ((8,), (26, 4), (27, 28, 29, 30, 4)),
        ((31, 32, 33, 34), (4,), (35, 36, 4)),
        ((8,), (37, 38, 4), (26, 4)),
        ((5, 39), (14, 4), (15, 16, 17, 4)),
    )
]


@pytest.fixture
def _double() -> Iterator[None]:
    with double():
        yield


def plain_pairs_loss(made: Discriminator, groups: list[RankedGroup]) -> tuple[Tensor, list[float]]:
    """Each completion in a forward of its own, each pair by the equation; their mean, and who is right."""
    assert isinstance(made.model, ScalarModel)
    losses, right = [], []
    for group in groups:
        chosen = plain_scalar_logit(made.model, group.best)
        rejected = plain_scalar_logit(made.model, group.others[0])
        settings = (made.config.label_smoothing, made.config.logit_penalty)
        losses.append(plain_pair_loss(chosen, rejected, *settings))
        right.append(1.0 if chosen > rejected else 0.0)
    return torch.stack(losses).mean(), right


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "logit_penalty": 0.02}])
@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 10_000])
def test_loss_and_gradient_equal_plain_forwards(
    settings: dict[str, Any], micro_batch_tokens: int
) -> None:
    batch, made = mixed_batch(), discriminator("scalar", micro_batch_tokens, **settings)
    health = made.judge(batch, learn=True, pairs=PAIRS).health
    actual = gradients(made.model)
    added, right = plain_pairs_loss(made, PAIRS)
    loss = plain_loss(made, batch, plain_logits(made, batch)) + added
    loss.backward()
    assert_close(health["discriminator/loss"], loss.item())
    assert 0 < sum(right) < len(right)
    assert_close(health["discriminator/pairs_accuracy"], sum(right) / len(right))
    assert_same_gradients(actual, gradients(made.model))


@pytest.mark.usefixtures("_double")
def test_pairs_count_in_nothing_but_the_loss() -> None:
    made = discriminator("scalar", replay_rollouts=100)
    without = made.judge(mixed_batch(), learn=True)
    gradients(made.model)
    again = discriminator("scalar", replay_rollouts=100)
    with_pairs = again.judge(mixed_batch(), learn=True, pairs=PAIRS)
    for health in (without.health, with_pairs.health):
        health.pop("discriminator/loss")
    assert with_pairs.health.pop("discriminator/pairs_accuracy") is not None
    assert with_pairs.health == without.health
    assert again.replay == made.replay
    assert torch.equal(with_pairs.rollout_logits, without.rollout_logits)


@pytest.mark.usefixtures("_double")
def test_replay_and_pairs_each_add_a_mean_of_their_own() -> None:
    made = discriminator("scalar", replay_rollouts=100)
    old, new = mixed_batch(), mixed_batch()
    made.judge(old, learn=True)
    gradients(made.model)  # as if it had not learned: the weights stay
    health = made.judge(new, learn=True, pairs=PAIRS).health
    actual = gradients(made.model)
    parts = [plain_loss(made, b, plain_logits(made, b)) for b in (old, new)]
    total = parts[0] + parts[1] + plain_pairs_loss(made, PAIRS)[0]
    total.backward()
    assert_close(health["discriminator/loss"], total.item())
    assert_same_gradients(actual, gradients(made.model))
    # a second pass over the batch meets other pairs, and says how it ranks them
    second = made.judge(new, learn=True, pairs=PAIRS[:1]).health
    assert set(second) == {"discriminator/loss", "discriminator/pairs_accuracy"}
    assert second["discriminator/pairs_accuracy"] in (0.0, 1.0)


@pytest.mark.usefixtures("_double")
def test_the_first_verdict_on_a_pair_is_a_tie() -> None:
    made = discriminator("scalar")
    assert isinstance(made.model, ScalarModel)
    torch.nn.init.zeros_(made.model.head.weight)
    assert made.judge(mixed_batch(), learn=True, pairs=PAIRS).health[
        "discriminator/pairs_accuracy"
    ] == pytest.approx(0.5)


def words(file: Path) -> tuple[str, ...]:
    return (f"data.pairs={file}", "data.pairs_per_step=4", "discriminator.form=scalar")


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
        (
            {},
            "data.pairs_per_step=7",
            "data.pairs_per_step: must be at most 6, the number of pairs",
        ),
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
