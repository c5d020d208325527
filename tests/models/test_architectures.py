"""Every architecture of the table is packed right, or refused in one line."""

import pytest
import torch
from architectures import ARCHITECTURES, RIGHT, VOCABULARY, WIDE, build
from transformers import PreTrainedModel

from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, completion_offsets, pack
from uniapl.models.packing_check import LENGTH_LIMITS, check_packing

TOLERANCE = 1e-4
"""Nats, float32."""


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


def some_sequences() -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    shared = draw(11)
    return [
        TokenSequence(shared, draw(14)),
        TokenSequence(draw(3), draw(19)),
        TokenSequence(shared, draw(6)),
    ]


def plain_logprobs(model: PreTrainedModel, sequences: list[TokenSequence]) -> torch.Tensor:
    """As transformers computes them without our attention, one sequence at a time."""
    model.set_attn_implementation("eager")
    found = []
    for sequence in sequences:
        row = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        logprobs = model(row, use_cache=False).logits[0].log_softmax(-1)
        start = len(sequence.prompt_ids)
        found.append(logprobs[start - 1 : -1].gather(1, row[0, start:, None]).squeeze(1))
    return torch.cat(found)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_check_knows_what_a_wide_window_hides(name: str) -> None:
    """Its sequences are shorter than the window, as those of any check would be; the verdict is the table's."""
    model = build(name, WIDE)
    before = {limit: getattr(model.config, limit, None) for limit in LENGTH_LIMITS}
    policy = LanguageModel(model, torch.float32, 64)
    refused = ARCHITECTURES[name].refused
    if refused is None:
        check_packing(policy, "here")
    else:
        with pytest.raises(InputError) as error:
            check_packing(policy, "here")
        assert str(error.value).startswith(f"here ({type(model).__name__}) c")
        assert refused in str(error.value)
        assert "\n" not in str(error.value)
    assert before == {limit: getattr(model.config, limit, None) for limit in LENGTH_LIMITS}


@pytest.mark.parametrize("name", RIGHT)
@torch.no_grad()
def test_what_is_accepted_is_right_far_past_its_window(name: str) -> None:
    model, sequences = build(name, 5), some_sequences()
    expected = plain_logprobs(model, sequences)
    micro_batches = pack(sequences, 1000)
    policy = LanguageModel(model, torch.float32, 64)
    flat = policy.flat_logprobs(micro_batches, completion_offsets(sequences)[-1])
    assert (flat - expected).abs().max() < TOLERANCE
    if ARCHITECTURES[name].window:
        wide = plain_logprobs(build(name, WIDE), sequences)
        assert (wide - expected).abs().max() > 0.1, "the window has no effect"
