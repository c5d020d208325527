"""Attention of single tokens in bfloat16: that of transformers, laid out in another way."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from uniapl.cpu.decoding_attention import NAME, decoding_attention
from uniapl.cpu.shared_prompts import PROMPTS, PromptRows
from uniapl.rollout import decoding
from uniapl.rollout.cache import RoomyLayer
from uniapl.rollout.decoding import Decoded, decode, layers, prefill
from uniapl.rollout.transformers_generator import TransformersGenerator
from uniapl.types import Prompt

MODULE = SimpleNamespace(
    num_key_value_groups=3, is_causal=True, config=SimpleNamespace(), layer_idx=1
)


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


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_shared_prompts_are_attended_to_like_copies(scaling: float | None) -> None:
    """Prompts 0 to 2 of 5, 2 and 3 tokens; rows in any order, one of prompt 0's places given up."""
    torch.manual_seed(0)
    starts, rows = torch.tensor([0, 3, 2]), torch.tensor([2, 0, 1, 2])
    places = torch.tensor([7, 1, 3, 6])
    padding = torch.where(torch.arange(5) < starts[:, None], -torch.inf, 0.0)[:, None, None]
    layer = RoomyLayer()
    keys, values = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    key, value = layer.update(keys, values)
    decoding_attention(MODULE, torch.randn(3, 6, 5, 8), key, value, None)  # type: ignore[arg-type]
    layer.share(rows, 4, PromptRows(places, 3, padding))
    own_keys, own_values = torch.randn(4, 2, 2, 8), torch.randn(4, 2, 2, 8)
    key, value = layer.update(own_keys, own_values)
    assert key.shape[2] == 2
    query = torch.randn(4, 6, 1, 8)
    attended, _ = decoding_attention(MODULE, query, key, value, None, scaling)  # type: ignore[arg-type]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        torch.cat([keys[rows], own_keys], 2),
        torch.cat([values[rows], own_values], 2),
        attn_mask=(torch.arange(7) >= starts[rows][:, None])[:, None, None],
        scale=scaling,
        enable_gqa=True,
    )
    assert_close(attended, expected.transpose(1, 2))


@torch.no_grad()
def test_decoding_with_shared_prompts_equals_decoding_with_copies(
    model: PreTrainedModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every architecture, with prompts of uneven length, groups of uneven size, rows that end, growth."""
    if not model._supports_sdpa:
        pytest.skip("is decoded with its own attention")
    rows = [prompt.token_ids for i, prompt in enumerate(prompts) for _ in range(1 + i)]
    draws = 1 - torch.rand(len(rows), 16, generator=torch.Generator().manual_seed(3))

    def decoded(attention: str) -> list[Decoded]:
        model.set_attn_implementation(attention)
        return decode(model, rows, draws, max_tokens=16, temperature=1.0, eos_token_ids=[5, 20, 33])

    expected = decoded("sdpa")
    monkeypatch.setattr(RoomyLayer, "growth_tokens", 1)
    found = decoded(NAME)
    assert len({len(row.token_ids) for row in expected}) > 3
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "attention", "num_rows", "num_shared"),
    [
        ("llama", NAME, 4, 3),
        ("llama", NAME, 3, 0),
        ("llama", NAME, 10, 0),
        ("llama", "sdpa", 4, 0),
        ("gpt2", NAME, 4, 2),
        ("gemma3", NAME, 4, 1),
    ],
    ids=[
        "groups",
        "hardly any groups",
        "one large group",
        "other attention",
        "no grouped queries",
        "sliding windows",
    ],
)
def test_which_layers_share_prompts(
    architecture: str,
    attention: str,
    num_rows: int,
    num_shared: int,
    build_model: Callable[..., PreTrainedModel],
) -> None:
    model = build_model(architecture)
    model.set_attn_implementation(attention)
    prompts = ([[3, 4, 5], [6, 7], [6, 7], [3, 4, 5]] + [[6, 7]] * 5 + [[5]])[:num_rows]
    rows = decoding._LiveRows(prefill(model, prompts), max_tokens=8)
    assert sum(layer.keys.shape[-2] == 0 for layer in layers(rows.cache)) == num_shared  # type: ignore[union-attr]


def _can_be_read(module: SimpleNamespace, width: int = 8, calls: int = 1, **kwargs: object) -> bool:
    """Return what attention finds of a layer in prefill."""
    layer = RoomyLayer()
    key, value = layer.update(torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, width))
    for _ in range(calls):
        decoding_attention(module, torch.randn(1, 6, 5, 8), key, value, None, **kwargs)  # type: ignore[arg-type]
        kwargs = {}
    return bool(getattr(key, PROMPTS).can_be_read)


def test_what_cannot_be_joined_is_copied() -> None:
    def of(**config: object) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(MODULE), "config": SimpleNamespace(**config)})

    assert _can_be_read(MODULE)
    assert _can_be_read(of(sliding_window=None))
    assert _can_be_read(of(sliding_window=4, layer_types=["sliding_attention", "full_attention"]))
    assert not _can_be_read(of(layer_types=["full_attention", "sliding_attention"]))
    assert not _can_be_read(of(sliding_window=4))
    assert not _can_be_read(SimpleNamespace(num_key_value_groups=3, is_causal=True))
    assert not _can_be_read(MODULE, width=4)
    assert not _can_be_read(MODULE, sliding_window=4)
    assert not _can_be_read(MODULE, sliding_window=4, calls=2)  # one reader's no is final


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_bfloat16_sampling_stays_near_float32(
    architecture: str, build_model: Callable[..., PreTrainedModel]
) -> None:
    """The log-probs of sampled tokens differ by rounding from those that a float32 forward gives them."""
    model = build_model(architecture)
    prompts = [[3, 4, 5, 6], [7, 8], [7, 8], [3, 4, 5, 6]]  # shared, with padding
    draws = 1 - torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
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
