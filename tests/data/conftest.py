"""Byte-level tokenizers built in memory, each with a chat template that has the traits of a family of models.

SmolLM2 brings a system prompt, Llama 3 a BOS token and the date, Qwen3 a switch for thinking and drops earlier
thoughts, Gemma knows no system role and calls the assistant `model`.
"""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM2 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA3 = (
    "<|begin_of_text|>{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] != 'assistant' %}{{ m['content'] }}"
    "{% elif not loop.last %}{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% elif '</think>' in m['content'] %}{{ m['content'] }}"
    "{% else %}<think>\n\n</think>\n\n{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not\nsupported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
OPEN_THINK = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif").replace(
    "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
)
FAMILIES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
    "smollm2": (SMOLLM2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "chatml-base": (CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|endoftext|>"),
    "llama3": (
        LLAMA3,
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        "<|end_of_text|>",
    ),
    "qwen3": (QWEN3, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
    "open-think": (OPEN_THINK, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
    "special-think": (
        OPEN_THINK.replace("<think>\n", ""),
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"],
        "<|im_end|>",
    ),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<eos>"),
    "plain": (None, ["<s>", "</s>"], "</s>"),
}


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], PreTrainedTokenizerFast]:
    """Return a function from a family's name to its tokenizer; each call builds a new one."""

    def build(family: str) -> PreTrainedTokenizerFast:
        template, special_tokens, eos_token = FAMILIES[family]
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(["Write about the sea. The sea is calm."] * 4, trainer)
        if family == "plain":  # like a tokenizer with add_bos_token and add_eos_token
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
            )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos_token)
        if family == "qwen3":  # whole, but no control tokens
            tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.chat_template = template
        return tokenizer

    return build


@pytest.fixture
def chatml(tokenizer_of: Callable[[str], PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return tokenizer_of("chatml")
