import copy
from collections.abc import Iterator

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    demonstration,
    discriminator,
    double,
    exact_policy,
    gradients,
    plain_logits,
    plain_loss,
    prompt,
    rollout,
)
from torch import Tensor

from uniapl.training.discriminator import Discriminator
from uniapl.training.rollout_batch import RankedGroup, RolloutBatch
from uniapl.training.update import no_gradient_logprobs


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def numbered_batch(first: int, num_pairs: int = 2) -> RolloutBatch:
    prompts = [prompt(first + i, 5) for i in range(num_pairs)]
    return RolloutBatch(
        [rollout(p, 20 + j, 4) for p in prompts for j in range(2)],
        group_size=2,
        experts=[demonstration(p, 30, 4) for p in prompts],
        num_pairs=num_pairs,
        mask_truncated=True,
    )


def remembered(made: Discriminator) -> list[int]:
    return [group.best.prompt_ids[0] for group in made.replay]


def test_replay_remembers_the_newest_rollouts_once_per_batch() -> None:
    made = discriminator("scalar", replay_rollouts=7)
    for first, expected in ((6, [6, 7]), (8, [7, 8, 9]), (10, [9, 10, 11])):
        batch = numbered_batch(first)
        for _ in range(2):  # two passes over each
            made.judge(batch, learn=True)
            made.learn()
        assert remembered(made) == expected
    made.judge(numbered_batch(12), learn=False)
    assert remembered(made) == [9, 10, 11]


def test_replay_draws_as_many_groups_as_are_fresh_and_not_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = discriminator("scalar", replay_rollouts=16)
    ages: list[list[int]] = []
    newest = 0

    def note(groups: list[RankedGroup]) -> tuple[float, float]:
        ages.append([newest - g.best.prompt_ids[0] for g in groups])
        return 0.0, 0.0

    monkeypatch.setattr(made, "_learn_from", note)
    for newest in range(6, 26, 2):
        made.judge(numbered_batch(newest), learn=True)
        made.learn()
    assert [len(drawn) for drawn in ages] == [0] + [2] * 9
    assert all(1 <= age <= 8 for drawn in ages for age in drawn)
    assert all(len(set(drawn)) == 2 for drawn in ages[1:])
    assert len({tuple(drawn) for drawn in ages[4:]}) > 1  # eight groups to choose from, each time


def test_replay_adds_the_mean_loss_of_older_pairs() -> None:
    made = discriminator("scalar", replay_rollouts=100)
    old, new = numbered_batch(6), numbered_batch(8)
    assert_close(
        made.judge(old, learn=True).health["discriminator/loss"],
        plain_loss(made, old, plain_logits(made, old)).item(),
    )
    gradients(made.model)  # as if it had not learned: the weights stay
    for _ in range(2):  # in a second pass the batch is not replayed to itself
        verdicts = made.judge(new, learn=True)
        actual = gradients(made.model)
        losses = [plain_loss(made, b, plain_logits(made, b)) for b in (old, new)]
        sum(losses).backward()  # type: ignore[union-attr]
        assert_close(verdicts.health["discriminator/loss"], sum(x.item() for x in losses))
        assert_same_gradients(actual, gradients(made.model))


def test_without_replay_nothing_is_kept() -> None:
    made = discriminator("scalar")
    made.judge(numbered_batch(6), learn=True)
    assert remembered(made) == []


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_restored_discriminator_goes_on_as_if_it_had_not_stopped(form: str) -> None:
    replay = {"replay_rollouts": 20} if form == "scalar" else {}
    straight, resumed = discriminator(form, **replay), discriminator(form, **replay)
    batches = [numbered_batch(6 + 2 * i) for i in range(5)]
    for batch in batches:
        batch.old_logprobs = no_gradient_logprobs(exact_policy(), batch.sequences, 100, 1.0)

    def learn(made: Discriminator, batch: RolloutBatch) -> tuple[dict[str, float], Tensor]:
        verdicts = made.judge(batch, learn=True)
        credit = made.credit(batch, verdicts)
        made.learn()
        return verdicts.health, credit

    for batch in batches[:3]:
        learn(straight, batch)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))  # as if read from a file
    for batch in batches[3:]:
        expected, actual = learn(straight, batch), learn(resumed, batch)
        assert actual[0] == expected[0]
        assert torch.equal(actual[1], expected[1])
    assert remembered(straight) == remembered(resumed)
