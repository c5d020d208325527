import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from transformers import PreTrainedModel

from uniapl.errors import TrainingError
from uniapl.rollout import decoding
from uniapl.rollout.cache import RoomyLayer
from uniapl.rollout.decoding import Decoded, choose_tokens, decode
from uniapl.types import Prompt

MAX_TOKENS = 16
NEVER = 10_000
"""A token id that no model here has."""


def uniform(rows: int, seed: int = 3) -> torch.Tensor:
    return 1 - torch.rand(rows, MAX_TOKENS, generator=torch.Generator().manual_seed(seed))


def sampled(
    model: PreTrainedModel, prompts: list[Prompt], draws: torch.Tensor, *eos: int
) -> list[Decoded]:
    return decode(
        model,
        [prompt.token_ids for prompt in prompts],
        draws,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        eos_token_ids=eos,
    )


def assert_same(left: list[Decoded], right: list[Decoded]) -> None:
    assert [row.token_ids for row in left] == [row.token_ids for row in right]
    assert [row.has_ended for row in left] == [row.has_ended for row in right]
    for one, other in zip(left, right, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("draw", "token"), [(1e-9, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 4), (1.0, 4)]
)
def test_a_draw_chooses_by_the_cumulative_distribution(draw: float, token: int) -> None:
    # cumulative: 0, .5, .75, .75, 1, 1
    logits = torch.tensor([[0.0, 0.5, 0.25, 0.0, 0.25, 0.0]]).log()
    tokens, logprobs = choose_tokens(logits, torch.tensor([draw]), temperature=1.0)
    assert tokens.tolist() == [token]
    assert logprobs.item() == pytest.approx(logits[0, token].item(), abs=1e-6)


@pytest.mark.parametrize("vocabulary", [3000, 20_000, 151_936])
def test_unlikely_tokens_are_taken_as_often_as_their_probability_says(vocabulary: int) -> None:
    """Behind a likely token, whose mass a float32 sum would round them away against: each has 3e-9."""
    logits = torch.zeros(1, vocabulary, dtype=torch.float64)
    logits[0, 10] = math.log(1 / 3e-9)
    probabilities = logits.softmax(-1)[0]
    first, num_tokens, per_token = vocabulary - 300, 8, 16
    starts = probabilities.cumsum(0)[first - 1 : first - 1 + num_tokens, None]
    steps = (torch.arange(per_token, dtype=torch.float64) + 0.5) / per_token
    draws = (starts + steps * probabilities[-1]).flatten()
    tokens, logprobs = choose_tokens(logits.float().expand(len(draws), -1), draws, temperature=1.0)
    counts = [(tokens == token).sum().item() for token in range(first + 1, first + num_tokens - 1)]
    assert counts == pytest.approx([per_token] * (num_tokens - 2), abs=1)
    expected = probabilities[tokens].log().float()
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=2e-6)


def test_in_a_large_vocabulary_too_no_token_of_probability_0_is_taken() -> None:
    logits = torch.full((1, 10_000), -torch.inf)
    possible = [
        3,
        255,
        256,
        700,
        9_983,
    ]  # first and last of a block, and in the last one, which is short
    logits[0, possible] = torch.tensor([0.5, 0.1, 0.1, 0.2, 0.1]).log()
    draws = torch.tensor([1e-17, 0.49, 0.55, 0.65, 0.75, 0.89, 0.91, 1.0], dtype=torch.float64)
    tokens, _ = choose_tokens(logits.expand(len(draws), -1), draws, temperature=1.0)
    assert tokens.tolist() == [3, 3, 255, 256, 700, 700, 9_983, 9_983]
    edges = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, _ = choose_tokens(logits.expand(len(edges), -1), 1 - edges, temperature=1.0)
    assert set(tokens.tolist()) == set(possible)
    assert (tokens == 3).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_temperature_divides_logits() -> None:
    # p = [.8, .2]; squared and normalised (temperature .5): [16/17, 1/17]
    logits = torch.tensor([[0.8, 0.2]]).log()
    tokens, logprobs = choose_tokens(logits, torch.tensor([0.93]), temperature=0.5)
    assert tokens.tolist() == [0]
    assert logprobs.exp().item() == pytest.approx(16 / 17)
    tokens, logprobs = choose_tokens(logits, torch.tensor([0.95]), temperature=0.5)
    assert tokens.tolist() == [1]
    assert logprobs.exp().item() == pytest.approx(1 / 17)


def test_temperature_zero_takes_the_likeliest_with_its_plain_logprob() -> None:
    logits = torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]]).log()
    tokens, logprobs = choose_tokens(logits, None, temperature=0)
    assert tokens.tolist() == [1, 0]
    assert logprobs.exp().tolist() == pytest.approx([0.7, 0.6])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_are_those_of_the_softmax(
    build_model: Callable[..., PreTrainedModel], temperature: float
) -> None:
    vocabulary, num_rows, eos = 6, 6000, 2
    model = build_model("qwen3", vocab_size=vocabulary, initializer_range=0.1)
    draws = 1 - torch.rand(num_rows, 2, generator=torch.Generator().manual_seed(1))
    decoded = decode(
        model,
        [(4, 5, 3)] * num_rows,
        draws,
        max_tokens=2,
        temperature=temperature,
        eos_token_ids=[eos],
    )
    expected: dict[tuple[int, ...], float] = {}
    with torch.no_grad():
        first = (model(torch.tensor([[4, 5, 3]])).logits[0, -1] / temperature).softmax(-1)
        for token in range(vocabulary):
            continued = model(torch.tensor([[4, 5, 3, token]])).logits[0, -1] / temperature
            for follower, share in enumerate(continued.softmax(-1)):
                pair = (token,) if token == eos else (token, follower)
                expected[pair] = expected.get(pair, 0) + float(first[token] * share)
    counts = dict.fromkeys(expected, 0)
    for row in decoded:
        counts[tuple(row.token_ids)] += 1
    frequencies = [expected[pair] * num_rows / sum(expected.values()) for pair in counts]
    assert stats.chisquare(list(counts.values()), frequencies).pvalue > 0.01


def test_prompts_are_forwarded_once_and_ended_rows_leave(
    build_model: Callable[..., PreTrainedModel], prompts: list[Prompt]
) -> None:
    model = build_model()
    shapes = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    rows = [prompt for prompt in prompts for _ in range(4)]
    decoded = sampled(model, rows, uniform(len(rows)), *range(2, 10))
    assert shapes[0] == (len(prompts), 11)
    lengths = [len(row.token_ids) for row in decoded]
    live = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert shapes[1:] == [(rows, 1) for rows in live]
    assert live[-1] < len(rows)


def test_neighbours_and_sharing_change_nothing(
    model: PreTrainedModel, prompts: list[Prompt]
) -> None:
    rows = [prompt for prompt in prompts for _ in range(2)]
    draws = uniform(len(rows))
    together = sampled(model, rows, draws, 2, 3)
    alone = [sampled(model, [row], draws[i : i + 1], 2, 3)[0] for i, row in enumerate(rows)]
    assert_same(together, alone)


def test_dropping_rows_changes_nothing(model: PreTrainedModel, prompts: list[Prompt]) -> None:
    rows = [prompt for prompt in prompts for _ in range(3)]
    eos = {5, 20, 33, 60}
    dropped = sampled(model, rows, uniform(len(rows)), *eos)
    kept = sampled(model, rows, uniform(len(rows)), NEVER)
    assert 0 < sum(row.has_ended for row in dropped) < len(rows)
    for short, full in zip(dropped, kept, strict=True):
        length = len(short.token_ids)
        assert full.token_ids[:length] == short.token_ids
        assert full.logprobs[:length] == pytest.approx(short.logprobs, abs=1e-4)
        assert not eos & set(short.token_ids[:-1])
        assert short.has_ended == (short.token_ids[-1] in eos)
        assert short.has_ended or length == MAX_TOKENS


def test_asking_less_often_what_has_ended_changes_nothing(
    model: PreTrainedModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [prompt for prompt in prompts for _ in range(3)]
    always = sampled(model, rows, uniform(len(rows)), *range(2, 12))
    assert len({len(row.token_ids) for row in always}) > 2
    monkeypatch.setattr(decoding, "CHECK_EVERY", {"cpu": 5})
    assert_same(sampled(model, rows, uniform(len(rows)), *range(2, 12)), always)


def test_a_growing_cache_changes_nothing(
    model: PreTrainedModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = uniform(len(prompts))
    roomy = sampled(model, prompts, draws, 2, 3)
    monkeypatch.setattr(RoomyLayer, "growth_tokens", 1)
    assert_same(sampled(model, prompts, draws, 2, 3), roomy)


def test_weights_that_diverged_are_reported(
    build_model: Callable[..., PreTrainedModel], prompts: list[Prompt]
) -> None:
    model = build_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")  # pyright: ignore
    with pytest.raises(TrainingError, match="not finite"):
        sampled(model, prompts, uniform(len(prompts)), 2)
