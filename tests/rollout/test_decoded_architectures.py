"""What every way of decoding says of its tokens is what the packed forward says of them."""

from collections.abc import Callable

import pytest
import torch
from architectures import RIGHT, build

from uniapl.cpu.decoding_attention import NAME
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack
from uniapl.rollout.decoding import Decoded, decode
from uniapl.rollout.static_decoding import StaticDecoder

PROMPTS = [(5, 6, 7)] * 2 + [(9, 8, 7, 6, 5, 4, 3, 11)] * 3
MAX_TOKENS = 16
TOLERANCE = 1e-3
"""Nats, float32."""


@pytest.mark.parametrize("name", RIGHT)
@torch.no_grad()
def test_sampling_logprobs_are_the_packed_ones(name: str) -> None:
    model = build(name, window=5)
    attention = "sdpa" if model._supports_sdpa else "eager"

    def dynamic(attention: str) -> Callable[..., list[Decoded]]:
        model.set_attn_implementation(attention)
        return lambda prompts, draws, **options: decode(model, prompts, draws, **options)

    draws = 1 - torch.rand(len(PROMPTS), MAX_TOKENS, generator=torch.Generator().manual_seed(1))
    ways: dict[str, Callable[[], Callable[..., list[Decoded]]]] = {
        "dynamic": lambda: dynamic(attention),
        "dynamic with shared prompts": lambda: dynamic(NAME),
        "static": lambda: StaticDecoder(model).decode,
    }
    for way, decoder in ways.items():
        model.set_attn_implementation(attention)
        rows = decoder()(PROMPTS, draws, max_tokens=MAX_TOKENS, temperature=1.0, eos_token_ids=[1])
        sequences = [
            TokenSequence(p, tuple(r.token_ids)) for p, r in zip(PROMPTS, rows, strict=True)
        ]
        sampled = torch.tensor([value for row in rows for value in row.logprobs])
        policy = LanguageModel(model, torch.float32, 64)
        packed = policy.flat_logprobs(pack(sequences, 1000), len(sampled))
        assert len(sampled) > 40
        assert (packed - sampled).abs().max() < TOLERANCE, way
