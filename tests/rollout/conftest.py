"""Tiny random models and a word tokenizer, built in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny_runs import tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from uniapl.types import Prompt

__all__ = ["tiny"]

VOCABULARY = 97
EOS, END_OF_TURN = 2, 3

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    # far larger than a trained model's, so that the next token depends on the whole prompt
    "initializer_range": 0.3,
}
_WINDOWS: dict[str, Any] = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    # with tied and scaled embeddings, more than this makes every next token certain
    "initializer_range": 0.2,
}


def _llama(**overrides: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**{**_SHAPE, **overrides}))


def _qwen3(**overrides: Any) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**{**_SHAPE, "tie_word_embeddings": True, **overrides}))


def _mistral(**overrides: Any) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**{**_SHAPE, "sliding_window": 5, **overrides}))


def _gemma2(**overrides: Any) -> PreTrainedModel:
    return Gemma2ForCausalLM(Gemma2Config(**{**_SHAPE, **_WINDOWS, **overrides}))


def _gemma3(**overrides: Any) -> PreTrainedModel:
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**_SHAPE, **_WINDOWS, **overrides}))


def _gpt2(**overrides: Any) -> PreTrainedModel:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_positions": 128,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
    }
    shape |= {"bos_token_id": 1, "eos_token_id": EOS, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**shape | overrides))


BUILDERS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build_model() -> Callable[..., PreTrainedModel]:
    def build(name: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        return BUILDERS[name](**overrides).eval()

    return build


@pytest.fixture(params=sorted(BUILDERS))
def model(request: pytest.FixtureRequest, build_model: Callable[..., PreTrainedModel]):
    return build_model(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": EOS, "<end>": END_OF_TURN}
    words |= {f"w{token}": token for token in range(len(words), VOCABULARY)}
    backend = Tokenizer(WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


@pytest.fixture
def make_prompt() -> Callable[..., Prompt]:
    def make(*token_ids: int) -> Prompt:
        return Prompt(id="-".join(map(str, token_ids)), messages=(), token_ids=token_ids)

    return make


@pytest.fixture
def prompts(make_prompt: Callable[..., Prompt]) -> list[Prompt]:
    """Uneven on purpose, longer than the sliding windows, not sorted by length."""
    random = torch.Generator().manual_seed(5)
    lengths = [3, 11, 1, 7, 11, 5]
    return [
        make_prompt(*torch.randint(4, VOCABULARY, (n,), generator=random).tolist()) for n in lengths
    ]
