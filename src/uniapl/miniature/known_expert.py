"""A language model that writes as the expert does, so that the expert's log-probs are known.

It is the base model after many fresh texts of the expert, none of them of a prompt that evaluations ask. What the
expert writes next is nearly random in many places, so this model's accuracy stays below the writer's.
"""

import random
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from uniapl.miniature.demonstrations import expert_tasks
from uniapl.miniature.pretraining import Recipe, pretrain

EXPERT = Recipe(num_texts=80_000, warmup_steps=100)
"""What made the shipped one: 18 CPU minutes on one thread."""
WEAKER = Recipe(num_texts=8_000, warmup_steps=100)
"""A tenth of the texts."""


def make_expert(
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    avoided_prompts: Collection[str],
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
) -> Qwen3ForCausalLM:
    """Train the base model on fresh texts of the expert.

    Args:
        base: Folder of the model to start from.
        tokenizer: The base model's.
        avoided_prompts: Texts of prompts that are never trained on.
        recipe: How many texts, and how they are learned.
        seed: Draws the texts and their order.
        say: Receives progress lines.

    Returns:
        The trained model, float32.
    """
    model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = fresh_texts(tokenizer, avoided_prompts, recipe.num_texts, random.Random(seed))
    say(f"{len(texts)} texts of the expert")
    pretrain(model, tokenizer, texts, recipe, seed, say)
    return model


def fresh_texts(
    tokenizer: PreTrainedTokenizerFast,
    avoided_prompts: Collection[str],
    number: int,
    rng: random.Random,
) -> list[tuple[str, str]]:
    """Return that many prompts and completions of the expert; no prompt is one of `avoided_prompts`."""
    avoided = frozenset(avoided_prompts)
    texts = (
        (task.prompt, completion)
        for task, completion in expert_tasks(tokenizer, rng)
        if task.prompt not in avoided
    )
    return list(islice(texts, number))
