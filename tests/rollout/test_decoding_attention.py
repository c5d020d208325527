"""Attention of single tokens in bfloat16: that of transformers, laid out in another way."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from uniapl.rollout.cache import RoomyLayer
from uniapl.rollout.decoding import decode, prefill
from uniapl.rollout.decoding_attention import NAME, decoding_attention
from uniapl.rollout.transformers_generator import TransformersGenerator
from uniapl.types import Prompt

MODULE = SimpleNamespace(num_key_value_groups=3, is_causal=True)


@pytest.mark.parametrize("num_tokens", [1, 4])
@pytest.mark.parametrize("is_masked", [False, True])
def test_equals_transformers(num_tokens: int, is_masked: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, num_tokens, 8)
    key, value = torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = None
    if is_masked:
        mask = torch.ones(2, 1, num_tokens, 5, dtype=torch.bool)
        mask[1, ..., :2] = False
    arguments = (query, key[:, :, :5], value, mask)
    expected, _ = sdpa_attention_forward(MODULE, *arguments, scaling=0.3)  # type: ignore[arg-type]
    attended, _ = decoding_attention(MODULE, *arguments, scaling=0.3)  # type: ignore[arg-type]
    assert attended.shape == (2, num_tokens, 6, 8)
    assert_close(attended, expected)


def test_what_it_does_not_know_goes_to_transformers() -> None:
    states = torch.randn(1, 2, 1, 8)
    query = torch.randn(1, 6, 1, 8)
    with pytest.raises(ValueError, match="softcap"):
        decoding_attention(MODULE, query, states, states, None, softcap=2.0)  # type: ignore[arg-type]


@torch.no_grad()
def test_states_are_kept_in_the_number_type_of_an_autocast(
    build_model: Callable[..., PreTrainedModel],
) -> None:
    model = build_model("llama")
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            cache = prefill(model, [[3, 4, 5], [6, 7]]).cache
        for layer in cache.layers:
            assert isinstance(layer, RoomyLayer)
            assert layer.keys is not None
            assert layer.values is not None
            assert layer.keys.dtype == layer.values.dtype == dtype


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_bfloat16_sampling_stays_near_float32(
    architecture: str, build_model: Callable[..., PreTrainedModel]
) -> None:
    """The log-probs of sampled tokens differ by rounding from those that a float32 forward gives them."""
    model = build_model(architecture)
    prompts = [[3, 4, 5, 6], [7, 8], [7, 8]]
    draws = 1 - torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation(NAME)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = decode(
            model, prompts, draws, max_tokens=6, temperature=1.0, eos_token_ids=[10_000]
        )
    model.set_attn_implementation("sdpa")
    for prompt, completion in zip(prompts, decoded, strict=True):
        row = torch.tensor([[*prompt, *completion.token_ids]])
        logprobs = model(row).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        expected = logprobs.gather(1, row[0, len(prompt) :, None]).squeeze(1)
        assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=0.15)


def test_the_generator_uses_it_inside_an_autocast_and_gives_the_model_back(
    build_model: Callable[..., PreTrainedModel], tokenizer, monkeypatch
) -> None:
    model = build_model("llama")
    before = model.config._attn_implementation
    seen: list[str] = []
    forward = model.forward

    def recorded(*args: object, **kwargs: object) -> object:
        seen.append(str(model.config._attn_implementation))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", recorded)
    generator = TransformersGenerator(
        model, tokenizer, max_completion_tokens=2, eos_token_ids=[model.config.vocab_size]
    )
    prompt = Prompt("p", ({"role": "user", "content": ""},), (3, 4))
    generator.sample([prompt], 2)
    assert set(seen) == {"sdpa"}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        generator.sample([prompt], 2)
    assert set(seen) == {NAME}
    assert model.config._attn_implementation == before
